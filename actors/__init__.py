"""The actor kinds and the vocabulary of a domain author. The README lists the order to read them in."""
