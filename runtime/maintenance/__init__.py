"""Keeps a store in good order while it is used: proofs, compaction, retention; read `maintenance.py` first."""
