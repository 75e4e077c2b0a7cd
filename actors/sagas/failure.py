"""What an error that leaves a step means for the step."""

from typing import Final

from ...storage.errors import CommitAbandoned, EventTooLarge, StoreError, ThreadRefused
from ..error_text import ERROR_CHARACTERS_MAX, described_with_advice, errors_in, kept_text
from ..errors import (
    AggregateUnavailable,
    DefinitionError,
    EncodingError,
    JournalFailed,
    MailboxFull,
    Rejected,
    ResidencyFull,
    RuntimeClosed,
)
from .errors import CallAmbiguous, DeadlinePassed, StepGone, Suspended, WaitInOtherTask, WaitInvalid

NOT_THE_STEPS_FAULT: Final = (
    StoreError,
    ThreadRefused,
    JournalFailed,
    CommitAbandoned,
    MailboxFull,
    ResidencyFull,
    AggregateUnavailable,
    RuntimeClosed,
)
"""After these errors the step is run again later, without counting an attempt."""
FINAL: Final = (
    Rejected,
    DeadlinePassed,
    StepGone,
    EncodingError,
    EventTooLarge,
    DefinitionError,
    CallAmbiguous,
    WaitInOtherTask,
    WaitInvalid,
)
"""After these errors a retry of the step would not help."""
ERROR_CHARACTERS_MIN: Final = 100
"""The part of an error text, in characters, for which there is always room, however large the state beside it is."""
FAILURE_BYTES: Final = 512
"""Bytes that the record of a state leaves free, so that the record of a failure can hold that state and a short
text."""


def is_final(error: BaseException) -> bool:
    """Whether a retry after this error would not help."""
    if isinstance(error, BaseExceptionGroup):
        return any(is_final(each) for each in error.exceptions)
    return isinstance(error, FINAL)


def out_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a step's nursery raised, without the exception group if one error in it says enough."""
    _, rest = group.split(Suspended)
    if rest is None:
        return Suspended()
    leaves = list(errors_in(rest))
    if len(leaves) == 1:
        return leaves[0]
    interruptions = [leaf for leaf in leaves if isinstance(leaf, NOT_THE_STEPS_FAULT)]
    return interruptions[0] if interruptions and isinstance(rest, Exception) else rest


def text_of(error: BaseException) -> str:
    """The text of an error as it is stored."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(text_of(leaf) for leaf in errors_in(error))[:ERROR_CHARACTERS_MAX]
    return kept_text(described_with_advice(error))
