"""A runtime in a program that does not run on trio: on asyncio, or in plain threads; `runtime_thread.py` first."""
