-- Refused records of these topics that have been sent again: where they were refused, and their broker time there.
SELECT topic, partition, offset, toUnixTimestamp64Milli(received_at) AS received_ms
FROM dead_letter_retries FINAL
WHERE has({topics:Array(String)}, topic)
