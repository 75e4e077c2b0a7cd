"""The indexes of the log: on disk, and in memory for the newest events."""
