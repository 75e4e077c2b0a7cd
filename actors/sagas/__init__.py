"""Sagas: what a domain author declares, and the supervisor that runs it; `saga.py` first."""
