"""The archive of compacted events, and the steps that move events to the archive and back; read `archive.py` first."""
