"""Queries and replays of the past: read `history.py` and `replay.py` first."""
