"""Sagas: what a domain author declares, and the supervisor that runs them. Read `saga.py` first."""
