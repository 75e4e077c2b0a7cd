"""The sagas of one runtime: starting them, querying them, and the calls of their steps; read `sagas.py` first."""
