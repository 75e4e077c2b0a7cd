"""Composes storage and actors into what a program embeds, and the command line."""
