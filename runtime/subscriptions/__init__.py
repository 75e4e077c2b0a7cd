"""Follows the log from a program: subscriptions, and consumers of durable ones; read `subscription.py` first."""
