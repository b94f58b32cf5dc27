package vigie.peer;

import org.apache.kafka.streams.processor.api.FixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorContext;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;

/**
 * Decodes and locates the records of one topic and adds them to the task's {@link Partials}. It forwards an empty value
 * for the first record after a flush, which makes the flush before the next commit (see {@link PeerTopology}).
 */
final class AddUp implements FixedKeyProcessor<byte[], byte[], byte[]> {
    private static final long WINDOW_MS = PeerTopology.WINDOW.toMillis();
    private static final byte[] SOMETHING = {};
    /** Windows of zones that a task holds at most, about 100 MB; a commit flushes them. */
    private static final int MAX_HELD = 250_000;

    private final Domain domain;
    private final Contract.Reader reader;
    private final Places places;
    private final Progress progress;
    private FixedKeyProcessorContext<byte[], byte[]> context;
    private Partials partials;

    AddUp(Contract contract, Places places, Progress progress) {
        this.domain = contract.domain;
        this.reader = contract.new Reader();
        this.places = places;
        this.progress = progress;
    }

    @Override
    public void init(FixedKeyProcessorContext<byte[], byte[]> context) {
        this.context = context;
        partials = context.getStateStore(Partials.NAME);
    }

    @Override
    public void process(FixedKeyRecord<byte[], byte[]> record) {
        Observation observation = reader.read(record.value());
        long start = observation.observedAt - Math.floorMod(observation.observedAt, WINDOW_MS);
        partials.add(domain, reader.kind(observation), start, places.of(observation), observation);
        progress.processed.incrementAndGet();
        if (!partials.announced) {
            // Before it is forwarded: without a record cache the flush is at once.
            partials.announced = true;
            context.forward(record.withValue(SOMETHING));
        }
        if (partials.size() >= MAX_HELD) {
            context.commit();
        }
    }
}
