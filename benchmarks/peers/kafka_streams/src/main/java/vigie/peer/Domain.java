package vigie.peer;

import java.util.List;
import java.util.function.BinaryOperator;
import org.apache.avro.Schema;

/** The four raw topics, and which fields of theirs name the kind of a thing. */
enum Domain {
    SENSOR("sensor", "SensorObservation", "sensor_type", null, null, (type, subtype) -> type),
    LIGHTING("lighting", "LightingObservation", null, null, null, (type, subtype) -> "lamp"),
    ROADWAY("roadway", "RoadwayObservation", "observation_type", "mobility_type", null,
        (type, subtype) -> type.equals("traffic") ? "traffic." + subtype : type),
    REPORT("report", "CitizenReport", null, null, "service_code", (type, subtype) -> "");

    /** As results name it. */
    final String label;
    final String schema;
    final String topic;
    /** Enum fields; null where kinds do not depend on one. */
    final String typeField;
    final String subtypeField;
    /** A string field that is the kind itself; null where there is none. */
    final String codeField;
    private final BinaryOperator<String> kind;

    Domain(String label, String schema, String typeField, String subtypeField, String codeField,
            BinaryOperator<String> kind) {
        this.label = label;
        this.schema = schema;
        this.topic = "city.raw." + label;
        this.typeField = typeField;
        this.subtypeField = subtypeField;
        this.codeField = codeField;
        this.kind = kind;
    }

    /** Kinds by the ordinals of the two enums, so that naming one makes no string. */
    String[][] kinds(Schema schema) {
        List<String> types = symbols(schema, typeField);
        List<String> subtypes = symbols(schema, subtypeField);
        String[][] kinds = new String[types.size()][subtypes.size()];
        for (int i = 0; i < kinds.length; i++) {
            for (int j = 0; j < kinds[i].length; j++) {
                kinds[i][j] = kind.apply(types.get(i), subtypes.get(j));
            }
        }
        return kinds;
    }

    private static List<String> symbols(Schema schema, String field) {
        return field == null ? List.of("") : schema.getField(field).schema().getEnumSymbols();
    }
}
