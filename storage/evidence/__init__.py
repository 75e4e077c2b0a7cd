"""Evidence that a log was not changed: a Merkle tree, proofs and signed checkpoints; read `merkle.py` first."""
