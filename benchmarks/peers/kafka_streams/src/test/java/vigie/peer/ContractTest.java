package vigie.peer;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.Arrays;
import java.util.Map;
import org.junit.jupiter.api.Test;

class ContractTest {
    @Test
    void readsTheFieldsOfUse() throws IOException {
        Contract contract = City.contracts().get(Domain.SENSOR);
        Contract.Reader reader = contract.new Reader();
        Observation found = reader.read(City.record(Domain.SENSOR, Map.of("asset_id", "bin-1", "observed_at", 61_000L,
            "longitude", 3.5, "latitude", 43.5, "sensor_type", "footfall", "temperature_c", -2.5, "lid_open", true,
            "distance_mm", 7.0, "motion_count", 12L)));
        assertEquals("bin-1", found.assetId.toString());
        assertEquals(61_000, found.observedAt);
        assertEquals(3.5, found.longitude);
        assertEquals(43.5, found.latitude);
        assertEquals("footfall", reader.kind(found));
        int temperature = contract.metrics.indexOf("temperature_c");
        int motion = contract.metrics.indexOf("motion_count");
        assertEquals(1L << temperature | 1L << motion, found.present);
        assertEquals(-2.5, found.metrics[temperature]);
        assertEquals(12, found.metrics[motion]);
        assertFalse(contract.metrics.contains("distance_mm"));
    }

    @Test
    void forgetsTheRecordBefore() throws IOException {
        Contract.Reader reader = City.contracts().get(Domain.LIGHTING).new Reader();
        reader.read(City.record(Domain.LIGHTING,
            Map.of("observed_at", 1L, "longitude", 3.5, "latitude", 43.5, "power_w", 60.0)));
        Observation found = reader.read(City.record(Domain.LIGHTING, Map.of("asset_id", "a", "observed_at", 2L)));
        assertFalse(found.positioned());
        assertEquals(0, found.present);
        assertEquals("a", found.assetId.toString());
        assertEquals("lamp", reader.kind(found));
    }

    @Test
    void namesKinds() throws IOException {
        assertEquals("traffic.bicycle",
            kind(Domain.ROADWAY, Map.of("observation_type", "traffic", "mobility_type", "bicycle")));
        assertEquals("pavement",
            kind(Domain.ROADWAY, Map.of("observation_type", "pavement", "mobility_type", "bicycle")));
        assertEquals("graffiti", kind(Domain.REPORT, Map.of("service_code", "graffiti")));
    }

    @Test
    void refusesOtherBytes() throws IOException {
        Contract.Reader reader = City.contracts().get(Domain.LIGHTING).new Reader();
        byte[] other = City.record(Domain.REPORT, Map.of("observed_at", 1L));
        assertThrows(IllegalArgumentException.class, () -> reader.read(other));
        assertThrows(IllegalArgumentException.class, () -> reader.read(new byte[9]));
        byte[] lamp = City.record(Domain.LIGHTING, Map.of("observed_at", 1L));
        assertThrows(UncheckedIOException.class, () -> reader.read(Arrays.copyOf(lamp, 20)));
    }

    private static String kind(Domain domain, Map<String, Object> fields) throws IOException {
        Contract.Reader reader = City.contracts().get(domain).new Reader();
        Map<String, Object> all = new java.util.HashMap<>(fields);
        all.put("observed_at", 1L);
        return reader.kind(reader.read(City.record(domain, all)));
    }
}
