package vigie.peer;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.avro.Schema;
import org.apache.avro.SchemaNormalization;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.util.Utf8;

/**
 * One raw topic: its Avro contract, and how a record of it is decoded.
 *
 * <p>A {@code GenericDatumReader} makes an object for every field, most of which the job has no use for. So the schema
 * is turned into a list of steps, once, and Avro's decoder is led through it: fields of use are read into a reused
 * {@link Observation}, others are skipped, and what comes after the last field of use is not looked at.
 */
final class Contract {
    private static final int HEADER_BYTES = 10;
    private static final int SINGLE_OBJECT = 0x01C3;
    private static final int MAX_METRICS = Long.SIZE;

    private enum Use { SKIP, ASSET, OBSERVED_AT, LONGITUDE, LATITUDE, TYPE, SUBTYPE, CODE, METRIC }

    /** `nullBranch` is the index of null in the field's union, -1 where it is no union; `metric` counts from 0. */
    private record Step(Use use, Schema.Type type, int nullBranch, int metric) {}

    final Domain domain;
    /** Names of the fields that windows sum: those with a resolution. */
    final List<String> metrics;
    private final long fingerprint;
    private final Step[] steps;
    private final String[][] kinds;
    private final Map<Utf8, String> kindByCode = new HashMap<>();

    private Contract(Domain domain, Schema schema) {
        this.domain = domain;
        fingerprint = SchemaNormalization.parsingFingerprint64(schema);
        List<String> names = new ArrayList<>();
        List<Step> found = new ArrayList<>();
        int last = 0;
        for (Schema.Field field : schema.getFields()) {
            boolean metric = field.getObjectProp("resolution") != null;
            Use use = metric ? Use.METRIC : use(field.name());
            Schema type = field.schema();
            int nullBranch = -1;
            if (type.isUnion()) {
                nullBranch = type.getIndexNamed("null");
                if (type.getTypes().size() != 2 || nullBranch < 0) {
                    throw new IllegalArgumentException(field.name() + ": only unions of null and one type are known");
                }
                type = type.getTypes().get(1 - nullBranch);
            }
            if (metric && type.getType() != Schema.Type.LONG && type.getType() != Schema.Type.DOUBLE) {
                throw new IllegalArgumentException(field.name() + ": a metric is a long or a double");
            }
            found.add(new Step(use, type.getType(), nullBranch, names.size()));
            if (metric) {
                names.add(field.name());
            }
            if (use != Use.SKIP) {
                last = found.size();
            }
        }
        if (names.size() > MAX_METRICS) {
            throw new IllegalArgumentException(schema.getName() + " has more than " + MAX_METRICS + " metrics");
        }
        metrics = List.copyOf(names);
        steps = found.subList(0, last).toArray(Step[]::new);
        kinds = domain.kinds(schema);
    }

    /** Reads the domain's contract from the folder of contracts. Throws IOException, or Avro's for a bad one. */
    static Contract read(Domain domain, Path schemas) throws IOException {
        Path file = schemas.resolve(domain.schema + ".avsc");
        return new Contract(domain, new Schema.Parser().parse(file.toFile()));
    }

    private Use use(String field) {
        if (field.equals(domain.typeField)) {
            return Use.TYPE;
        }
        if (field.equals(domain.subtypeField)) {
            return Use.SUBTYPE;
        }
        if (field.equals(domain.codeField)) {
            return Use.CODE;
        }
        return switch (field) {
            case "asset_id" -> Use.ASSET;
            case "observed_at" -> Use.OBSERVED_AT;
            case "longitude" -> Use.LONGITUDE;
            case "latitude" -> Use.LATITUDE;
            default -> Use.SKIP;
        };
    }

    /** One thread's decoder; it keeps its buffers and its observation from record to record. */
    final class Reader {
        private final Observation observation = new Observation(metrics.size());
        private BinaryDecoder decoder;

        /**
         * The observation of a record in Avro's single-object encoding, good until the next call. Throws
         * IllegalArgumentException for bytes of another schema and UncheckedIOException for bytes that end too soon.
         */
        Observation read(byte[] value) {
            if (value.length < HEADER_BYTES) {
                throw new IllegalArgumentException("the record is not of this topic's schema");
            }
            ByteBuffer header = ByteBuffer.wrap(value).order(ByteOrder.LITTLE_ENDIAN);
            if ((header.getShort(0) & 0xFFFF) != SINGLE_OBJECT || header.getLong(2) != fingerprint) {
                throw new IllegalArgumentException("the record is not of this topic's schema");
            }
            decoder = DecoderFactory.get().binaryDecoder(value, HEADER_BYTES, value.length - HEADER_BYTES, decoder);
            Observation into = observation;
            into.longitude = Double.NaN;
            into.latitude = Double.NaN;
            into.present = 0;
            try {
                for (Step step : steps) {
                    if (step.nullBranch < 0 || decoder.readIndex() != step.nullBranch) {
                        take(step, into);
                    }
                }
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
            return into;
        }

        private void take(Step step, Observation into) throws IOException {
            switch (step.use) {
                case SKIP -> skip(step.type);
                case ASSET -> into.assetId = decoder.readString(into.assetId);
                case CODE -> into.code = decoder.readString(into.code);
                case OBSERVED_AT -> into.observedAt = decoder.readLong();
                case LONGITUDE -> into.longitude = decoder.readDouble();
                case LATITUDE -> into.latitude = decoder.readDouble();
                case TYPE -> into.type = decoder.readEnum();
                case SUBTYPE -> into.subtype = decoder.readEnum();
                case METRIC -> {
                    into.metrics[step.metric] =
                        step.type == Schema.Type.LONG ? decoder.readLong() : decoder.readDouble();
                    into.present |= 1L << step.metric;
                }
            }
        }

        private void skip(Schema.Type type) throws IOException {
            switch (type) {
                case STRING -> decoder.skipString();
                case DOUBLE -> decoder.skipFixed(Double.BYTES);
                case LONG -> decoder.readLong();
                case ENUM -> decoder.readEnum();
                case BOOLEAN -> decoder.readBoolean();
                default -> throw new IllegalStateException("no contract has a field of type " + type);
            }
        }

        /** What sort of thing speaks: the first half of a window metric's name. */
        String kind(Observation observation) {
            if (domain.codeField == null) {
                return kinds[observation.type][observation.subtype];
            }
            String kind = kindByCode.get(observation.code);
            if (kind == null) {
                kind = observation.code.toString();
                kindByCode.put(new Utf8(observation.code), kind);
            }
            return kind;
        }
    }
}
