package vigie.peer;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.TestInputTopic;
import org.apache.kafka.streams.TestOutputTopic;
import org.apache.kafka.streams.TopologyTestDriver;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The whole topology; the test driver commits after each record, so every result is merged of several partial sums. */
class PeerTopologyTest {
    @TempDir
    Path folder;

    @Test
    void sumsUpByZoneKindAndMinute() throws IOException {
        lastResults(256L << 20);
    }

    @Test
    void losesNothingWithoutRecordCache() throws IOException {
        lastResults(0);
    }

    private void lastResults(long cacheBytes) throws IOException {
        Progress progress = new Progress(5, Arrays.stream(Domain.values()).map(domain -> domain.topic).toList());
        Properties config = new Properties();
        config.put(StreamsConfig.STATE_DIR_CONFIG, folder.resolve("state").toString());
        config.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, cacheBytes);
        try (TopologyTestDriver driver = new TopologyTestDriver(
                PeerTopology.build(City.contracts(), City.places(folder), "results", progress), config)) {
            send(driver, Domain.LIGHTING, Map.of("asset_id", "lamp-1", "observed_at", 60_000L, "power_w", 60.5));
            send(driver, Domain.LIGHTING, Map.of("asset_id", "lamp-1", "observed_at", 119_999L, "power_w", -1.25));
            send(driver, Domain.LIGHTING, Map.of("asset_id", "lamp-1", "observed_at", 120_000L, "energy_kwh", 9.0));
            send(driver, Domain.ROADWAY, Map.of("asset_id", "road-1", "observed_at", 59_999L, "longitude", 1.5,
                "latitude", 0.5, "observation_type", "traffic", "mobility_type", "car", "count", 3.0));
            send(driver, Domain.REPORT, Map.of("asset_id", "", "observed_at", 0L, "service_code", "graffiti"));
            TestOutputTopic<String, String> results =
                driver.createOutputTopic("results", new StringDeserializer(), new StringDeserializer());
            assertEquals(Map.ofEntries(
                Map.entry("[\"lighting\",\"ancien\",\"é\\\"1\",\"lamp.events\",60000]", "[2,0,0,0]"),
                Map.entry("[\"lighting\",\"ancien\",\"é\\\"1\",\"lamp.power_w\",60000]", "[2,59.25,-1.25,60.5]"),
                Map.entry("[\"lighting\",\"ancien\",\"é\\\"1\",\"lamp.events\",120000]", "[1,0,0,0]"),
                Map.entry("[\"lighting\",\"quartier\",\"A\",\"lamp.events\",60000]", "[2,0,0,0]"),
                Map.entry("[\"lighting\",\"quartier\",\"A\",\"lamp.power_w\",60000]", "[2,59.25,-1.25,60.5]"),
                Map.entry("[\"lighting\",\"quartier\",\"A\",\"lamp.events\",120000]", "[1,0,0,0]"),
                Map.entry("[\"roadway\",\"ancien\",\"\",\"traffic.car.events\",0]", "[1,0,0,0]"),
                Map.entry("[\"roadway\",\"ancien\",\"\",\"traffic.car.count\",0]", "[1,3.0,3.0,3.0]"),
                Map.entry("[\"roadway\",\"quartier\",\"B\",\"traffic.car.events\",0]", "[1,0,0,0]"),
                Map.entry("[\"roadway\",\"quartier\",\"B\",\"traffic.car.count\",0]", "[1,3.0,3.0,3.0]"),
                Map.entry("[\"report\",\"ancien\",\"\",\"graffiti.events\",0]", "[1,0,0,0]"),
                Map.entry("[\"report\",\"quartier\",\"\",\"graffiti.events\",0]", "[1,0,0,0]")),
                results.readKeyValuesToMap());
        }
        assertTrue(progress.allMerged());
        assertEquals(10, progress.sent.get());
    }

    private static void send(TopologyTestDriver driver, Domain domain, Map<String, Object> fields) throws IOException {
        TestInputTopic<String, byte[]> topic =
            driver.createInputTopic(domain.topic, new StringSerializer(), new ByteArraySerializer());
        topic.pipeInput("key", City.record(domain, fields));
    }
}
