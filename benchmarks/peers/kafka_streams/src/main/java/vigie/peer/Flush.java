package vigie.peer;

import com.fasterxml.jackson.core.io.JsonStringEncoder;
import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;

/** Sends on what the task has added up: one record for each window of each zone and kind, at the window's start. */
final class Flush implements Processor<byte[], byte[], Bytes, Cells> {
    private record Series(Domain domain, int zone, String kind) {}

    private final Places places;
    private final Progress progress;
    private final Map<Series, Bytes> keys = new HashMap<>();
    private ProcessorContext<Bytes, Cells> context;
    private Partials partials;

    Flush(Places places, Progress progress) {
        this.places = places;
        this.progress = progress;
    }

    @Override
    public void init(ProcessorContext<Bytes, Cells> context) {
        this.context = context;
        partials = context.getStateStore(Partials.NAME);
        // A stream has no end, a benchmark has: do not wait for the commit interval when everything has been read.
        context.schedule(Progress.LOOK, PunctuationType.WALL_CLOCK_TIME, now -> {
            if (partials.announced && progress.allRead()) {
                context.commit();
            }
        });
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
        long events = partials.drain((slot, zone, cells) -> {
            Bytes key = keys.computeIfAbsent(new Series(slot.domain(), zone, slot.kind()), this::key);
            progress.sent.incrementAndGet();
            context.forward(new Record<>(key, cells, slot.start()));
        });
        progress.flushed.addAndGet(events);
    }

    /** A byte for the domain, and the text that the keys of all results of the series begin with. */
    private Bytes key(Series series) {
        Places.Zone zone = places.zones.get(series.zone);
        ByteArrayOutputStream text = new ByteArrayOutputStream();
        text.write(series.domain.ordinal());
        text.writeBytes(utf8("[\"" + series.domain.label + "\",\""));
        text.writeBytes(JsonStringEncoder.getInstance().quoteAsUTF8(zone.layer()));
        text.writeBytes(utf8("\",\""));
        text.writeBytes(JsonStringEncoder.getInstance().quoteAsUTF8(zone.code()));
        text.writeBytes(utf8("\",\""));
        text.writeBytes(JsonStringEncoder.getInstance().quoteAsUTF8(series.kind));
        return Bytes.wrap(text.toByteArray());
    }

    private static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
