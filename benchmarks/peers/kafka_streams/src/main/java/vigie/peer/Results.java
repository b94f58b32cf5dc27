package vigie.peer;

import static java.nio.charset.StandardCharsets.ISO_8859_1;

import com.fasterxml.jackson.core.io.NumberOutput;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.Map;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;

/** Writes each metric of a window as one result: JSON text, as benchmarks/README.md has it. */
final class Results implements Processor<Windowed<Bytes>, Cells, byte[], byte[]> {
    private static final byte[] EVENTS = ending("events");
    /** What follows the kind in a key, by domain and metric. */
    private final byte[][][] endings;
    private final Progress progress;
    private ProcessorContext<byte[], byte[]> context;

    /** `metrics` are those of each domain's contract. */
    Results(Map<Domain, List<String>> metrics, Progress progress) {
        this.progress = progress;
        Domain[] domains = Domain.values();
        endings = new byte[domains.length][][];
        for (Domain domain : domains) {
            // Names of Avro fields need no escaping in JSON.
            endings[domain.ordinal()] =
                metrics.get(domain).stream().map(Results::ending).toArray(byte[][]::new);
        }
    }

    @Override
    public void init(ProcessorContext<byte[], byte[]> context) {
        this.context = context;
        // As in Flush: the end of a benchmark does not wait for the commit interval.
        context.schedule(Progress.LOOK, PunctuationType.WALL_CLOCK_TIME, now -> {
            if (progress.allMerged()) {
                context.commit();
            }
        });
    }

    @Override
    public void process(Record<Windowed<Bytes>, Cells> record) {
        byte[] series = record.key().key().get();
        byte[] start = (record.key().window().start() + "]").getBytes(ISO_8859_1);
        Cells cells = record.value();
        long at = record.timestamp();
        send(series, EVENTS, start, "[" + cells.events() + ",0,0,0]", at);
        byte[][] names = endings[series[0]];
        int nth = 0;
        for (long left = cells.there(); left != 0; left &= left - 1, nth++) {
            String value = "[" + cells.count(nth) + "," + text(cells.sum(nth)) + "," + text(cells.least(nth)) + ","
                + text(cells.most(nth)) + "]";
            send(series, names[Long.numberOfTrailingZeros(left)], start, value, at);
        }
    }

    private static byte[] ending(String metric) {
        return ("." + metric + "\",").getBytes(ISO_8859_1);
    }

    /** Java 17's own text of a double is slower, and not always the shortest. */
    private static String text(double number) {
        return NumberOutput.toString(number, true);
    }

    private void send(byte[] series, byte[] metric, byte[] start, String value, long at) {
        byte[] key = new byte[series.length - 1 + metric.length + start.length];
        ByteBuffer.wrap(key).put(series, 1, series.length - 1).put(metric).put(start);
        context.forward(new Record<>(key, value.getBytes(ISO_8859_1), at));
    }
}
