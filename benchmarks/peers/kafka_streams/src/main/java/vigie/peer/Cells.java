package vigie.peer;

import java.nio.ByteBuffer;
import org.apache.kafka.common.errors.SerializationException;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;

/**
 * What one window of one zone and kind adds up to: how many events, and count, sum, minimum and maximum of each metric.
 *
 * <p>All metrics of a contract are in one value, so that a window costs one key, one lookup and one record between the
 * two halves of the topology, not one a metric.
 */
final class Cells {
    private static final int PER_METRIC = 4;
    private static final int HEADER_BYTES = Long.BYTES + Long.BYTES + 1;

    private long events;
    /** Count, sum, minimum and maximum of metric i from 4 * i on; a count of 0 makes the others mean nothing. */
    private final double[] numbers;

    Cells(int metrics) {
        numbers = new double[PER_METRIC * metrics];
    }

    void add(Observation observation) {
        events++;
        for (long left = observation.present; left != 0; left &= left - 1) {
            int metric = Long.numberOfTrailingZeros(left);
            double value = observation.metrics[metric];
            add(PER_METRIC * metric, 1, value, value, value);
        }
    }

    /** Adds the other one to this one and returns this one. */
    Cells merge(Cells other) {
        events += other.events;
        for (int at = 0; at < numbers.length; at += PER_METRIC) {
            if (other.numbers[at] != 0) {
                add(at, other.numbers[at], other.numbers[at + 1], other.numbers[at + 2], other.numbers[at + 3]);
            }
        }
        return this;
    }

    private void add(int at, double count, double sum, double least, double most) {
        if (numbers[at] == 0) {
            numbers[at + 2] = least;
            numbers[at + 3] = most;
        } else if (least < numbers[at + 2]) {
            numbers[at + 2] = least;
        }
        if (most > numbers[at + 3]) {
            numbers[at + 3] = most;
        }
        numbers[at] += count;
        numbers[at + 1] += sum;
    }

    long events() {
        return events;
    }

    long count(int metric) {
        return (long) numbers[PER_METRIC * metric];
    }

    double sum(int metric) {
        return numbers[PER_METRIC * metric + 1];
    }

    double least(int metric) {
        return numbers[PER_METRIC * metric + 2];
    }

    double most(int metric) {
        return numbers[PER_METRIC * metric + 3];
    }

    /** Events, a bit for each metric that is there, the number of metrics, and the numbers of those that are there. */
    static Serde<Cells> serde() {
        Serializer<Cells> serializer = (topic, cells) -> cells == null ? null : cells.toBytes();
        Deserializer<Cells> deserializer = (topic, bytes) -> bytes == null ? null : fromBytes(bytes);
        return Serdes.serdeFrom(serializer, deserializer);
    }

    private byte[] toBytes() {
        long there = 0;
        for (int at = 0; at < numbers.length; at += PER_METRIC) {
            if (numbers[at] != 0) {
                there |= 1L << at / PER_METRIC;
            }
        }
        int size = HEADER_BYTES + Long.bitCount(there) * PER_METRIC * Double.BYTES;
        ByteBuffer into = ByteBuffer.allocate(size);
        into.putLong(events).putLong(there).put((byte) (numbers.length / PER_METRIC));
        for (long left = there; left != 0; left &= left - 1) {
            int at = PER_METRIC * Long.numberOfTrailingZeros(left);
            for (int i = at; i < at + PER_METRIC; i++) {
                into.putDouble(numbers[i]);
            }
        }
        return into.array();
    }

    private static Cells fromBytes(byte[] bytes) {
        if (bytes.length < HEADER_BYTES) {
            throw new SerializationException("these bytes are too few to be cells");
        }
        ByteBuffer from = ByteBuffer.wrap(bytes);
        long events = from.getLong();
        long there = from.getLong();
        Cells cells = new Cells(from.get());
        cells.events = events;
        for (long left = there; left != 0; left &= left - 1) {
            int at = PER_METRIC * Long.numberOfTrailingZeros(left);
            for (int i = at; i < at + PER_METRIC; i++) {
                cells.numbers[i] = from.getDouble();
            }
        }
        return cells;
    }
}
