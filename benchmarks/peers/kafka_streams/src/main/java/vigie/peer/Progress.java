package vigie.peer;

import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.consumer.ConsumerInterceptor;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;

/**
 * The benchmark's stopwatch and its end. Kafka Streams runs for ever; a run is over when the offsets of every record,
 * and of every partial sum made of them, are committed: a commit comes after Kafka has acknowledged all that was sent.
 */
final class Progress {
    /** How often processors look whether the end has come. */
    static final Duration LOOK = Duration.ofMillis(10);

    final AtomicLong processed = new AtomicLong();
    /** Records that are in partial sums that were sent on. */
    final AtomicLong flushed = new AtomicLong();
    /** Partial sums sent to the repartition topic, and received from it. */
    final AtomicLong sent = new AtomicLong();
    final AtomicLong merged = new AtomicLong();
    private final long count;
    private final List<String> topics;
    private final Map<TopicPartition, Long> first = new HashMap<>();
    private final Map<TopicPartition, Long> committed = new HashMap<>();
    private final CountDownLatch ended = new CountDownLatch(1);
    private volatile Throwable failure;
    private long firstAt;
    private long endedAt;

    /** The end is when `count` records of these topics are processed. */
    Progress(long count, List<String> topics) {
        this.count = count;
        this.topics = topics;
    }

    boolean allRead() {
        return processed.get() >= count;
    }

    boolean allMerged() {
        return allRead() && flushed.get() == processed.get() && merged.get() == sent.get();
    }

    void fail(Throwable error) {
        failure = error;
        ended.countDown();
    }

    /** Whether the end came within that time. Throws the error that ended it, as the cause of an exception. */
    boolean await(Duration time) throws InterruptedException {
        boolean over = ended.await(time.toMillis(), TimeUnit.MILLISECONDS);
        if (failure != null) {
            throw new IllegalStateException("the stream failed: " + failure, failure);
        }
        return over;
    }

    /** From the first record received to everything durable. */
    synchronized double seconds() {
        return (endedAt - firstAt) / 1e9;
    }

    private synchronized void received(ConsumerRecords<byte[], byte[]> records) {
        if (firstAt == 0 && !records.isEmpty()) {
            firstAt = System.nanoTime();
        }
        for (TopicPartition partition : records.partitions()) {
            first.computeIfAbsent(partition, key -> records.records(key).get(0).offset());
        }
    }

    private synchronized void committed(Map<TopicPartition, OffsetAndMetadata> offsets) {
        offsets.forEach((partition, offset) -> committed.put(partition, offset.offset()));
        if (endedAt == 0 && allMerged() && done(true) >= count && done(false) == sent.get()) {
            endedAt = System.nanoTime();
            ended.countDown();
        }
    }

    /** Committed records of the raw topics, or of all others. */
    private long done(boolean raw) {
        long sum = 0;
        for (Map.Entry<TopicPartition, Long> partition : first.entrySet()) {
            if (topics.contains(partition.getKey().topic()) == raw) {
                sum += Math.max(0, committed.getOrDefault(partition.getKey(), 0L) - partition.getValue());
            }
        }
        return sum;
    }

    /** How it learns what Kafka Streams' consumer receives and commits. */
    public static final class Interceptor implements ConsumerInterceptor<byte[], byte[]> {
        static final String CONFIG = "peer.progress";
        private Progress progress;

        @Override
        public void configure(Map<String, ?> configs) {
            progress = (Progress) configs.get(CONFIG);
        }

        @Override
        public ConsumerRecords<byte[], byte[]> onConsume(ConsumerRecords<byte[], byte[]> records) {
            progress.received(records);
            return records;
        }

        @Override
        public void onCommit(Map<TopicPartition, OffsetAndMetadata> offsets) {
            progress.committed(offsets);
        }

        @Override
        public void close() { }
    }
}
