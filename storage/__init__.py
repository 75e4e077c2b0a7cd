"""The event log on LMDB: positions, bytes and transactions. FORMAT.md specifies the keys and values on disk."""
