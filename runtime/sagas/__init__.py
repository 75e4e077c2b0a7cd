"""The sagas of one runtime: starting them, asking them, and what their steps call; `sagas.py` first."""
