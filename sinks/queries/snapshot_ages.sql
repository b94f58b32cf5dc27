-- The newest snapshot of each partition of the topics as they are now: how old it is, how far event time was behind it, up to
-- which offset it goes, who took it.
SELECT
    replaceOne(s.topic, 'city.raw.', '') AS topic,
    s.partition AS part,
    toInt64(greatest(0, dateDiff('second', s.taken_at, {now:DateTime64(3)}))) AS age_s,
    toInt64(greatest(0, dateDiff('second', s.watermark, s.taken_at))) AS behind_s,
    s.next_offset AS next_offset,
    s.watermark AS watermark,
    s.owner AS owner,
    s.code_version AS code_version
FROM snapshots AS s FINAL
WHERE s.topic != ''
    AND (s.topic, s.epoch) IN (SELECT topic, argMax(epoch, taken_at) FROM snapshots FINAL WHERE topic != '' GROUP BY topic)
ORDER BY age_s DESC, topic, part
