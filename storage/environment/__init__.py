"""What everything else stands on: LMDB environments and the files around them; `environment.py` first."""
