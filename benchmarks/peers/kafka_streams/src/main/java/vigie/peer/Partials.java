package vigie.peer;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.streams.processor.StateStore;
import org.apache.kafka.streams.processor.StateStoreContext;
import org.apache.kafka.streams.state.StoreBuilder;

/**
 * What one task has added up since it last sent it on: a state store of plain objects.
 *
 * <p>It needs no changelog: it is sent on, and empty, before the offsets of the records in it are committed (see
 * {@link PeerTopology}). After a crash those records are read again.
 */
final class Partials implements StateStore {
    static final String NAME = "partials";

    /** One window of one kind, for all zones. */
    record Slot(Domain domain, String kind, long start) {}

    /** What takes the parts, in the order of their windows. */
    interface Taker {
        void take(Slot slot, int zone, Cells cells);
    }

    private final int zones;
    private final Map<Slot, Cells[]> slots = new HashMap<>();
    private long events;
    private int size;
    private boolean open;
    /** Whether the flush before the next commit is arranged for. */
    boolean announced;

    Partials(int zones) {
        this.zones = zones;
    }

    void add(Domain domain, String kind, long start, int[] found, Observation observation) {
        events++;
        Cells[] slot = slots.computeIfAbsent(new Slot(domain, kind, start), key -> new Cells[zones]);
        for (int zone : found) {
            Cells cells = slot[zone];
            if (cells == null) {
                cells = slot[zone] = new Cells();
                size++;
            }
            cells.add(observation);
        }
    }

    /** How many windows of zones it holds. */
    int size() {
        return size;
    }

    /** Gives away what was added up, and returns how many events that were. */
    long drain(Taker taker) {
        List<Slot> order = new ArrayList<>(slots.keySet());
        order.sort(Comparator.comparingLong(Slot::start));
        for (Slot slot : order) {
            Cells[] all = slots.get(slot);
            for (int zone = 0; zone < all.length; zone++) {
                if (all[zone] != null) {
                    taker.take(slot, zone, all[zone]);
                }
            }
        }
        long given = events;
        clear();
        return given;
    }

    private void clear() {
        slots.clear();
        events = 0;
        size = 0;
        announced = false;
    }

    @Override
    public String name() {
        return NAME;
    }

    @Override
    public void init(StateStoreContext context, StateStore root) {
        context.register(root, (key, value) -> { });
        open = true;
    }

    @Override
    public void close() {
        clear();
        open = false;
    }

    @Override
    public boolean persistent() {
        return false;
    }

    @Override
    public boolean isOpen() {
        return open;
    }

    /** Builds one for each task. */
    record Builder(int zones) implements StoreBuilder<Partials> {
        @Override
        public Partials build() {
            return new Partials(zones);
        }

        @Override
        public StoreBuilder<Partials> withCachingEnabled() {
            throw new UnsupportedOperationException("it is a cache itself");
        }

        @Override
        public StoreBuilder<Partials> withCachingDisabled() {
            return this;
        }

        @Override
        public StoreBuilder<Partials> withLoggingEnabled(Map<String, String> config) {
            throw new UnsupportedOperationException("it is empty at every commit");
        }

        @Override
        public StoreBuilder<Partials> withLoggingDisabled() {
            return this;
        }

        @Override
        public Map<String, String> logConfig() {
            return Map.of();
        }

        @Override
        public boolean loggingEnabled() {
            return false;
        }

        @Override
        public String name() {
            return NAME;
        }
    }
}
