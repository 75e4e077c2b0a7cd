"""Backups, restores, forks, exports and imports; read `transfer.py` first."""
