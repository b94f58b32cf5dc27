package vigie.peer;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.io.IOException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import org.apache.avro.util.Utf8;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class PlacesTest {
    @TempDir
    Path folder;
    private Places places;

    @BeforeEach
    void readTheCity() throws IOException {
        places = City.places(folder);
    }

    @Test
    void ownPositionCountsBeforeTheAssets() {
        assertEquals(List.of("ancien:", "quartier:B"), at("lamp-1", 1.5, 0.5));
    }

    @Test
    void assetsPositionCountsWhereThereIsNoOwn() {
        assertEquals(List.of("ancien:é\"1", "quartier:A"), at("lamp-1", Double.NaN, Double.NaN));
        assertEquals(List.of("ancien:", "quartier:B"), at("lamp,\"2\"", Double.NaN, 0.5));
        assertEquals(List.of("ancien:é\"1", "quartier:A"), at("lamp-1", Double.NaN, Double.NaN));
    }

    @Test
    void borderBelongsToTheFirstCode() {
        assertEquals(List.of("ancien:é\"1", "quartier:A"), at("", 1, 0.5));
        assertEquals(List.of("ancien:", "quartier:B"), at("", 2, 1));
    }

    @Test
    void nowhereIsTheEmptyCode() {
        assertEquals(List.of("ancien:", "quartier:"), at("", 5, 5));
        assertEquals(List.of("ancien:", "quartier:"), at("lost", Double.NaN, Double.NaN));
        assertEquals(List.of("ancien:", "quartier:"), at("unknown", Double.NaN, Double.NaN));
    }

    private List<String> at(String asset, double longitude, double latitude) {
        Observation observation = new Observation(0);
        observation.assetId = new Utf8(asset);
        observation.longitude = longitude;
        observation.latitude = latitude;
        return Arrays.stream(places.of(observation)).mapToObj(places.zones::get)
            .map(zone -> zone.layer() + ":" + zone.code()).toList();
    }
}
