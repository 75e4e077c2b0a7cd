"""Projections: what they are declared by, and the actor that follows the log for them."""
