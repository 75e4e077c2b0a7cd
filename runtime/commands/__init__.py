"""The commands of `eventsrc`, each with its options and what it prints; `runtime.command_line` has them all."""
