"""Aggregates: their declarations and their actors."""
