"""Aggregates: what they are declared by, and their actors."""
