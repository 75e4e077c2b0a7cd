"""What can be asked of the past, and replayed: `history.py` and `replay.py` first."""
