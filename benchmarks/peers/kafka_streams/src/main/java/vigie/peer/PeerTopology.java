package vigie.peer;

import java.time.Duration;
import java.util.EnumMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Named;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.Repartitioned;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorSupplier;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;
import org.apache.kafka.streams.state.WindowStore;

/**
 * The job as two sub-topologies.
 *
 * <p>Events of one zone come from all partitions of a topic, and every event is in a zone of each layer, so the plain
 * DSL (flatMap to zones, groupByKey, windowedBy, aggregate) would send every event several times through a repartition
 * topic. So each task adds up first what it reads, in plain objects ({@link AddUp}, {@link Partials}: no serializing at
 * each event, as a cached store would), and only these partial sums are repartitioned by zone; the second half is the
 * DSL's windowed reduce over them, in an in-memory store with a changelog and the record cache, which emits the merged
 * windows when it commits.
 *
 * <p>Partial sums must be sent before the offsets of their events are committed, or a crash or a rebalance would lose
 * them. Kafka Streams tells processors of no commit, but before each one, whatever the reason for it, it flushes the
 * record cache and so forwards what is in it. The reduce named "commits" makes use of that: AddUp puts something into
 * it at the first record after a flush, and when it comes out, {@link Flush} sends the partial sums.
 */
final class PeerTopology {
    static final Duration WINDOW = Duration.ofMinutes(1);
    /** Partitions are read at different speeds, and none of their records may come too late. */
    private static final Duration GRACE = Duration.ofDays(3);

    private PeerTopology() { }

    static Topology build(Map<Domain, Contract> contracts, Places places, String results, Progress progress) {
        StreamsBuilder builder = new StreamsBuilder();
        sendResults(sumUp(addUp(builder, contracts, places, progress), progress), contracts, results, progress);
        return builder.build();
    }

    /** The first half: partial sums by series (see Flush), with the window's start as their time. */
    private static KStream<Bytes, Cells> addUp(
            StreamsBuilder builder, Map<Domain, Contract> contracts, Places places, Progress progress) {
        builder.addStateStore(new Partials.Builder(places.zones.size()));
        KStream<byte[], byte[]> dirty = null;
        for (Contract contract : contracts.values()) {
            FixedKeyProcessorSupplier<byte[], byte[], byte[]> addUp = () -> new AddUp(contract, places, progress);
            KStream<byte[], byte[]> one = builder
                .stream(contract.domain.topic, Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
                .processValues(addUp, Named.as("add-up-" + contract.domain.label), Partials.NAME);
            dirty = dirty == null ? one : dirty.merge(one);
        }
        // Not logged: what is in the cache is in no state, and comes out before the commit.
        Materialized<byte[], byte[], KeyValueStore<Bytes, byte[]>> commits =
            Materialized.<byte[], byte[]>as(Stores.inMemoryKeyValueStore("commits"))
                .withKeySerde(Serdes.ByteArray()).withValueSerde(Serdes.ByteArray())
                .withCachingEnabled().withLoggingDisabled();
        return dirty
            .groupByKey(Grouped.with("commits", Serdes.ByteArray(), Serdes.ByteArray()))
            .reduce((before, after) -> after, commits)
            .toStream()
            .process(() -> new Flush(places, progress), Named.as("flush"), Partials.NAME);
    }

    /** The second half: partial sums of all tasks, merged by series and window. */
    private static KStream<Windowed<Bytes>, Cells> sumUp(KStream<Bytes, Cells> partials, Progress progress) {
        Serde<Cells> cells = Cells.serde();
        Materialized<Bytes, Cells, WindowStore<Bytes, byte[]>> windows =
            Materialized.<Bytes, Cells>as(Stores.inMemoryWindowStore("windows", WINDOW.plus(GRACE), WINDOW, false))
                .withKeySerde(Serdes.Bytes()).withValueSerde(cells).withCachingEnabled();
        return partials
            .repartition(Repartitioned.<Bytes, Cells>as("partials")
                .withKeySerde(Serdes.Bytes()).withValueSerde(cells))
            .peek((series, part) -> progress.merged.incrementAndGet())
            .groupByKey(Grouped.with(Serdes.Bytes(), cells))
            .windowedBy(TimeWindows.ofSizeAndGrace(WINDOW, GRACE))
            .reduce(Cells::merge, windows)
            .toStream();
    }

    private static void sendResults(
            KStream<Windowed<Bytes>, Cells> sums, Map<Domain, Contract> contracts, String results, Progress progress) {
        Map<Domain, List<String>> metrics = new EnumMap<>(Domain.class);
        contracts.forEach((domain, contract) -> metrics.put(domain, contract.metrics));
        sums.process(() -> new Results(metrics, progress), Named.as("results"))
            .to(results, Produced.with(Serdes.ByteArray(), Serdes.ByteArray()));
    }
}
