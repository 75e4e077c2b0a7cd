"""Where the rows of projections live, and how they are queried: on LMDB here, in SQL in `sql`."""
