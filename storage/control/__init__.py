"""The control board: the state of the log's followers, and requests to a runtime from other processes."""
