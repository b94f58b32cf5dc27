"""What the Python peers do with a record, once for all of them.

Nothing here knows a stream processor, and nothing of vigie is imported: contracts come as Avro files, zones and assets
as a territory's folder.
"""
