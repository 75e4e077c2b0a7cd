"""The one actor that writes, and what others hand to it."""
