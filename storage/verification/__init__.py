"""The checks of a store, table by table; `verify.py` lists them."""
