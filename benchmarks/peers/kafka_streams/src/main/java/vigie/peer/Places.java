package vigie.peer;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.apache.avro.util.Utf8;
import org.locationtech.jts.geom.Coordinate;
import org.locationtech.jts.geom.Geometry;
import org.locationtech.jts.geom.GeometryFactory;
import org.locationtech.jts.geom.Point;
import org.locationtech.jts.geom.prep.PreparedGeometry;
import org.locationtech.jts.geom.prep.PreparedGeometryFactory;
import org.locationtech.jts.index.strtree.STRtree;
import org.locationtech.jts.io.ParseException;
import org.locationtech.jts.io.geojson.GeoJsonReader;

/**
 * Which zone of each layer an observation lies in.
 *
 * <p>An asset's zones are looked up once and kept by its identifier. An observation with a position of its own is
 * looked up each time: measured positions seldom repeat. One thread only.
 */
final class Places {
    /** A layer that has no zone at a position is there with the code "". */
    record Zone(String layer, String code) {}

    private record Shape(int index, int layer, PreparedGeometry geometry) {}

    /** All zones, layers in the order of their names, codes in order within a layer; then one "nowhere" a layer. */
    final List<Zone> zones;
    private final int[] nowhere;
    private final STRtree tree = new STRtree();
    private final GeometryFactory points = new GeometryFactory();
    private final Map<String, Coordinate> assets;
    private final Map<Utf8, int[]> byAsset = new HashMap<>();

    private Places(List<Zone> zones, List<String> layers, List<Shape> shapes, Map<String, Coordinate> assets) {
        List<Zone> all = new ArrayList<>(zones);
        nowhere = new int[layers.size()];
        for (int layer = 0; layer < nowhere.length; layer++) {
            nowhere[layer] = all.size();
            all.add(new Zone(layers.get(layer), ""));
        }
        this.zones = List.copyOf(all);
        this.assets = assets;
        for (Shape shape : shapes) {
            tree.insert(shape.geometry.getGeometry().getEnvelopeInternal(), shape);
        }
        tree.build();
    }

    /** Indices into `zones`, one for each layer. Not to be changed. */
    int[] of(Observation observation) {
        if (observation.positioned()) {
            return lookUp(new Coordinate(observation.longitude, observation.latitude));
        }
        int[] found = byAsset.get(observation.assetId);
        if (found == null) {
            Coordinate registered = assets.get(observation.assetId.toString());
            found = registered == null ? nowhere : lookUp(registered);
            byAsset.put(new Utf8(observation.assetId), found);
        }
        return found;
    }

    private int[] lookUp(Coordinate position) {
        Point point = points.createPoint(position);
        int[] found = nowhere.clone();
        for (Object candidate : tree.query(point.getEnvelopeInternal())) {
            Shape shape = (Shape) candidate;
            // On a shared border the first code counts, and zones are in the order of their codes.
            if (shape.index < found[shape.layer] && shape.geometry.intersects(point)) {
                found[shape.layer] = shape.index;
            }
        }
        return found;
    }

    /**
     * Reads `zones/<layer>.geojson` of a territory's folder and the registry of assets (CSV: asset_id, longitude,
     * latitude). Zones not valid `today` (YYYY-MM-DD) are left out. Throws IOException for what cannot be read.
     */
    static Places read(Path territory, Path assets, String today) throws IOException {
        List<Path> files;
        try (Stream<Path> found = Files.list(territory.resolve("zones"))) {
            files = found.filter(file -> file.toString().endsWith(".geojson"))
                .sorted(Comparator.comparing(Path::toString)).toList();
        }
        List<Zone> zones = new ArrayList<>();
        List<String> layers = new ArrayList<>();
        List<Shape> shapes = new ArrayList<>();
        ObjectMapper json = new ObjectMapper();
        for (Path file : files) {
            String layer = file.getFileName().toString().replaceFirst("\\.geojson$", "");
            List<JsonNode> features = new ArrayList<>();
            json.readTree(file.toFile()).path("features").forEach(features::add);
            features.sort(Comparator.comparing(feature -> feature.path("properties").path("code").asText()));
            for (JsonNode feature : features) {
                JsonNode properties = feature.path("properties");
                String from = properties.path("valid_from").asText("");
                String to = properties.path("valid_to").asText("");
                if (from.compareTo(today) <= 0 && (to.isEmpty() || today.compareTo(to) < 0)) {
                    shapes.add(new Shape(zones.size(), layers.size(), prepare(feature.path("geometry"), file)));
                    zones.add(new Zone(layer, properties.path("code").asText()));
                }
            }
            layers.add(layer);
        }
        return new Places(zones, layers, shapes, readAssets(assets));
    }

    private static PreparedGeometry prepare(JsonNode geometry, Path file) throws IOException {
        try {
            Geometry shape = new GeoJsonReader().read(geometry.toString());
            return PreparedGeometryFactory.prepare(shape);
        } catch (ParseException error) {
            throw new IOException(file + ": " + error.getMessage(), error);
        }
    }

    /** Assets with a position. The two coordinates are cut from the right, so that an identifier may have commas. */
    private static Map<String, Coordinate> readAssets(Path file) throws IOException {
        Map<String, Coordinate> assets = new HashMap<>();
        try (BufferedReader lines = Files.newBufferedReader(file)) {
            if (!"asset_id,longitude,latitude".equals(lines.readLine())) {
                throw new IOException(file + " does not begin with asset_id,longitude,latitude");
            }
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                int second = line.lastIndexOf(',');
                int first = line.lastIndexOf(',', second - 1);
                if (first < 0) {
                    throw new IOException(file + ": not three columns: " + line);
                }
                String longitude = line.substring(first + 1, second);
                String latitude = line.substring(second + 1);
                if (!longitude.isEmpty() && !latitude.isEmpty()) {
                    Coordinate position = new Coordinate(Double.parseDouble(longitude), Double.parseDouble(latitude));
                    assets.put(unquote(line.substring(0, first)), position);
                }
            }
        }
        return assets;
    }

    private static String unquote(String field) {
        boolean quoted = field.length() >= 2 && field.startsWith("\"") && field.endsWith("\"");
        return quoted ? field.substring(1, field.length() - 1).replace("\"\"", "\"") : field;
    }
}
