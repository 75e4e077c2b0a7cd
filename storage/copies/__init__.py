"""Copies of a store, exports and imports: events on their way from one log to another; `transfer.py` first."""
