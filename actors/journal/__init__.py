"""The only actor that writes to the store, and the messages that other actors hand to it."""
