"""The actor kinds and the vocabulary that a domain author writes with. The README has the order to read them in."""
