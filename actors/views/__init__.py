"""The storage and querying of projections' rows: on LMDB here, in SQL in `sql`."""
