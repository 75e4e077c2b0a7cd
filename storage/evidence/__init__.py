"""What shows that a log holds what it held: a Merkle tree, proofs and signed checkpoints; `merkle.py` first."""
