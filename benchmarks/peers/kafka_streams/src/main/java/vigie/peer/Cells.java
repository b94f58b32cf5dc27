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
    private static final int HEADER_BYTES = 2 * Long.BYTES;
    private static final double[] NONE = {};

    private long events;
    /** Bit i is set when metric i is there. A thing sends few of its contract's metrics, and always the same. */
    private long there;
    /** Count, sum, minimum and maximum of each metric that is there. */
    private double[] numbers = NONE;

    void add(Observation observation) {
        events++;
        widen(observation.present);
        int at = 0;
        for (long left = there; left != 0; left &= left - 1, at += PER_METRIC) {
            int metric = Long.numberOfTrailingZeros(left);
            if ((observation.present >>> metric & 1) != 0) {
                double value = observation.metrics[metric];
                add(at, 1, value, value, value);
            }
        }
    }

    /** Adds the other one to this one and returns this one. */
    Cells merge(Cells other) {
        events += other.events;
        widen(other.there);
        int at = 0;
        int from = 0;
        for (long left = there; left != 0; left &= left - 1, at += PER_METRIC) {
            if ((other.there >>> Long.numberOfTrailingZeros(left) & 1) != 0) {
                double[] one = other.numbers;
                add(at, one[from], one[from + 1], one[from + 2], one[from + 3]);
                from += PER_METRIC;
            }
        }
        return this;
    }

    /** Makes room for metrics that are not there yet, with a count of 0. */
    private void widen(long present) {
        if ((present & ~there) == 0) {
            return;
        }
        long all = there | present;
        double[] wider = new double[PER_METRIC * Long.bitCount(all)];
        int at = 0;
        int from = 0;
        for (long left = all; left != 0; left &= left - 1, at += PER_METRIC) {
            if ((there >>> Long.numberOfTrailingZeros(left) & 1) != 0) {
                System.arraycopy(numbers, from, wider, at, PER_METRIC);
                from += PER_METRIC;
            }
        }
        there = all;
        numbers = wider;
    }

    private void add(int at, double count, double sum, double least, double most) {
        double[] into = numbers;
        boolean first = into[at] == 0;
        into[at] += count;
        into[at + 1] += sum;
        if (first || least < into[at + 2]) {
            into[at + 2] = least;
        }
        if (first || most > into[at + 3]) {
            into[at + 3] = most;
        }
    }

    long events() {
        return events;
    }

    /** The metrics that are there, as bits. What follows is of the nth of these, counted from 0. */
    long there() {
        return there;
    }

    long count(int nth) {
        return (long) numbers[PER_METRIC * nth];
    }

    double sum(int nth) {
        return numbers[PER_METRIC * nth + 1];
    }

    double least(int nth) {
        return numbers[PER_METRIC * nth + 2];
    }

    double most(int nth) {
        return numbers[PER_METRIC * nth + 3];
    }

    /** The number of events, the metrics that are there as bits, and their numbers. */
    static Serde<Cells> serde() {
        Serializer<Cells> serializer = (topic, cells) -> cells == null ? null : cells.toBytes();
        Deserializer<Cells> deserializer = (topic, bytes) -> bytes == null ? null : fromBytes(bytes);
        return Serdes.serdeFrom(serializer, deserializer);
    }

    private byte[] toBytes() {
        ByteBuffer into = ByteBuffer.allocate(HEADER_BYTES + numbers.length * Double.BYTES);
        into.putLong(events).putLong(there).asDoubleBuffer().put(numbers);
        return into.array();
    }

    private static Cells fromBytes(byte[] bytes) {
        ByteBuffer from = ByteBuffer.wrap(bytes);
        Cells cells = new Cells();
        cells.events = from.getLong();
        cells.there = from.getLong();
        cells.numbers = new double[PER_METRIC * Long.bitCount(cells.there)];
        if (from.remaining() != cells.numbers.length * Double.BYTES) {
            throw new SerializationException("these bytes are no cells");
        }
        from.asDoubleBuffer().get(cells.numbers);
        return cells;
    }
}
