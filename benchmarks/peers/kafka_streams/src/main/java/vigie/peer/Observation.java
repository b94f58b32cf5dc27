package vigie.peer;

import org.apache.avro.util.Utf8;

/** What the job needs of one record. A contract fills the same instance again and again. */
final class Observation {
    Utf8 assetId = new Utf8();
    /** The code that names the kind in reports; not touched by other contracts. */
    Utf8 code = new Utf8();
    /** Milliseconds since 1970, UTC. */
    long observedAt;
    /** Degrees, WGS84; NaN for null. */
    double longitude;
    double latitude;
    /** Ordinals of the one or two enums that name the kind; 0 where there is none. */
    int type;
    int subtype;
    /** Bit i is set when metric i is not null. */
    long present;
    /** Values of the metrics, in the contract's order; those that are null keep an old value. */
    final double[] metrics;

    Observation(int metrics) {
        this.metrics = new double[metrics];
    }

    boolean positioned() {
        return !Double.isNaN(longitude) && !Double.isNaN(latitude);
    }
}
