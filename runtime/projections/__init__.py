"""The projections of one runtime, and queries of their views; read `projections.py` first."""
