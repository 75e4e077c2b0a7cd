"""Errors of proofs and signed checkpoints."""

from ..errors import EventSourcingError


class EvidenceUnavailable(EventSourcingError):
    """Signing and checking checkpoints needs the library `cryptography`, which is not installed."""

    code = "evidence_unavailable"

    def __init__(self) -> None:
        super().__init__('Signing and checking checkpoints needs an extra: pip install "eventsrc[evidence]".')


class CheckpointInvalid(EventSourcingError):
    """A text is no checkpoint, its signature is invalid, or another key has signed it."""

    code = "checkpoint_invalid"


class SigningKeyInvalid(EventSourcingError):
    """The file with the signing key for checkpoints cannot be read or created."""

    code = "signing_key_invalid"

    def __init__(self, path: str, reason: str, advice: str = "Make one: eventsrc checkpoint --new-key") -> None:
        super().__init__(f"{path} cannot be used as an Ed25519 key: {reason}. {advice}.")
        self.path = path
        self.reason = reason


class ProofImpossible(EventSourcingError):
    """The log does not have the event to be proved, or not as many events as requested."""

    code = "proof_impossible"
