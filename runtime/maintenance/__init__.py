"""What keeps a store in good order while it is used: proofs, compaction, retention; `maintenance.py` first."""
