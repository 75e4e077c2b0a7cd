"""The projections of one runtime, and their views as they are queried; `projections.py` first."""
