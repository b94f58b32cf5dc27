-- Events of one table observed in a span (milliseconds since 1970) whose event_id has one of these CRC32: who asks compares the rest.
SELECT DISTINCT source, event_id
FROM merge(currentDatabase(), '^events_')
WHERE _table = {table:String}
    AND observed_at >= fromUnixTimestamp64Milli({first_ms:Int64}) AND observed_at <= fromUnixTimestamp64Milli({last_ms:Int64})
    AND has({crcs:Array(UInt32)}, CRC32(event_id))
