"""Events that compaction moved out of the log, and how they move there and back; `archive.py` first."""
