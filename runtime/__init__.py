"""Composes storage and actors into what a program embeds, and the command line.

Read in this order: `runtime` (opening and closing), `reference` (what is sent to aggregates), `residents` (which of
them are in memory), `deadlines`; then `command_line` and `benchmark`.
"""
