"""The verification of a store: one check for each table; `verify.py` runs them."""
