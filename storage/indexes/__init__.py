"""The indexes of the log: on disk, and in memory for what is not there yet."""
