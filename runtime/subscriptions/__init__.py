"""Following the log from a program: subscriptions, and consumers of durable ones; `subscription.py` first."""
