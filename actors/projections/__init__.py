"""Projections: their declarations, and the actor that follows the log for them."""
