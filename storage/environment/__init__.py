"""The foundation of the storage layer: LMDB environments and the files around them; read `environment.py` first."""
