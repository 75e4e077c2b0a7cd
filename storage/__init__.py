"""Bytes, positions and transactions: the event log on LMDB. FORMAT.md states the keys and values on disk."""
