"""Composes storage and actors into the runtime that a program embeds, and provides the command line."""
