"""The control board: what followers of the log remember, and what is asked of a runtime from outside."""
