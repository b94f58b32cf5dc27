package vigie.peer;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.EnumMap;
import java.util.Map;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.generic.GenericRecordBuilder;
import org.apache.avro.message.BinaryMessageEncoder;

/** A city of two layers and four squares, and records of it as Avro's own encoder writes them. */
final class City {
    static final Path SCHEMAS = Path.of("../../../schemas/avro");
    static final String TODAY = "2025-06-15";
    private static final String SQUARE =
        "{\"type\":\"Feature\",\"properties\":{\"code\":\"%s\"%s},\"geometry\":{\"type\":\"Polygon\","
        + "\"coordinates\":[[[%d,0],[%d,0],[%d,1],[%d,1],[%d,0]]]}}";

    private City() { }

    static Places places(Path folder) throws IOException {
        Files.createDirectory(folder.resolve("zones"));
        // Not in the order of their codes.
        layer(folder, "quartier", square("B", "", 1), square("A", "", 0));
        layer(folder, "ancien", square("old", ",\"valid_to\":\"2025-06-15\"", 0),
            square("é\\\"1", ",\"valid_from\":\"2025-06-15\",\"valid_to\":null", 0));
        Path assets = folder.resolve("assets.csv");
        Files.writeString(assets,
            "asset_id,longitude,latitude\r\nlamp-1,0.5,0.5\r\n\"lamp,\"\"2\"\"\",1.5,0.5\r\nlost,,\r\n");
        return Places.read(folder, assets, TODAY);
    }

    private static String square(String code, String validity, int left) {
        return SQUARE.formatted(code, validity, left, left + 1, left + 1, left, left);
    }

    private static void layer(Path folder, String name, String... features) throws IOException {
        Files.writeString(folder.resolve("zones").resolve(name + ".geojson"),
            "{\"type\":\"FeatureCollection\",\"features\":[" + String.join(",", features) + "]}");
    }

    static Map<Domain, Contract> contracts() throws IOException {
        Map<Domain, Contract> contracts = new EnumMap<>(Domain.class);
        for (Domain domain : Domain.values()) {
            contracts.put(domain, Contract.read(domain, SCHEMAS));
        }
        return contracts;
    }

    /** A record of the domain; `fields` overrides the defaults, enums by the text of their symbol. */
    static byte[] record(Domain domain, Map<String, Object> fields) throws IOException {
        Schema schema = new Schema.Parser().parse(SCHEMAS.resolve(domain.schema + ".avsc").toFile());
        GenericRecordBuilder builder = new GenericRecordBuilder(schema);
        for (Schema.Field field : schema.getFields()) {
            Object value = fields.get(field.name());
            if (value != null && field.schema().getType() == Schema.Type.ENUM) {
                builder.set(field, new GenericData.EnumSymbol(field.schema(), value));
            } else if (value != null) {
                builder.set(field, value);
            } else if (field.schema().getType() == Schema.Type.STRING) {
                builder.set(field, "x");
            }
        }
        ByteBuffer bytes = new BinaryMessageEncoder<GenericRecord>(GenericData.get(), schema).encode(builder.build());
        byte[] value = new byte[bytes.remaining()];
        bytes.get(value);
        return value;
    }
}
