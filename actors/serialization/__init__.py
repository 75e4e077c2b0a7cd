"""The encoding of objects as stored data, and their decoding."""
