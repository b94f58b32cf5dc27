-- Each stream of a part that is written or merged holds buffers of the largest compressed block, a megabyte unless told: in
-- trials a merge of `asset_state` took 150 MB. Its columns are merged one by one now, as those of events are.
ALTER TABLE events_sensor MODIFY SETTING max_compress_block_size = 131072;
ALTER TABLE events_lighting MODIFY SETTING max_compress_block_size = 131072;
ALTER TABLE events_roadway MODIFY SETTING max_compress_block_size = 131072;
ALTER TABLE events_report MODIFY SETTING max_compress_block_size = 131072;
ALTER TABLE window_rows MODIFY SETTING max_compress_block_size = 131072;
ALTER TABLE asset_state
    MODIFY SETTING max_compress_block_size = 131072, vertical_merge_algorithm_min_columns_to_activate = 1;
