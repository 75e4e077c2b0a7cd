"""The commands of `eventsrc`, each with its options and its output; `runtime.command_line` collects them."""
