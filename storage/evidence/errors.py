"""Why a proof or a signed checkpoint cannot be had, or does not hold."""

from ..errors import EventSourcingError


class EvidenceUnavailable(EventSourcingError):
    """Checkpoints need the library `cryptography`."""

    code = "evidence_unavailable"

    def __init__(self) -> None:
        super().__init__('Signing and checking checkpoints needs an extra: pip install "eventsrc[evidence]".')


class CheckpointInvalid(EventSourcingError):
    """A text is no checkpoint, its signature is not right, or somebody else's."""

    code = "checkpoint_invalid"


class SigningKeyInvalid(EventSourcingError):
    """A file with the key for checkpoints cannot be read, or made."""

    code = "signing_key_invalid"

    def __init__(self, path: str, reason: str, advice: str = "Make one: eventsrc checkpoint --new-key") -> None:
        super().__init__(f"{path} cannot be used as an Ed25519 key: {reason}. {advice}.")
        self.path = path
        self.reason = reason


class ProofImpossible(EventSourcingError):
    """There is no such event to prove."""

    code = "proof_impossible"
