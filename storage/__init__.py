"""Bytes, positions and transactions: the event log on LMDB.

Read in this order: `commit` (what is written), `record` (what is stored), `store` (the port every store fulfils),
`group` (how a group commit becomes one value), `log` (the store on LMDB) and `memory` (the same in memory).
FORMAT.md states the keys and values on disk.
"""
