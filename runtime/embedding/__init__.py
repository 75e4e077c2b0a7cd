"""A runtime in a program that is not on trio: on asyncio, or in plain threads; read `runtime_thread.py` first."""
