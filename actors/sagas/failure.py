"""What an error that leaves a step means for it."""

from collections.abc import Iterator
from typing import Final

from ...storage.errors import CommitAbandoned, EventTooLarge, StoreError, ThreadRefused
from ..error_text import told
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
"""After these the step is run again later, without counting an attempt."""
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
"""After these trying the step again would not help."""
ERROR_CHARACTERS_MAX: Final = 2_000
"""How much of an error's text is stored."""
ERROR_CHARACTERS_MIN: Final = 100
"""How much of it there is always room for, whatever the state beside it takes."""
FAILURE_BYTES: Final = 512
"""Room that the record of a state leaves, so that the record of a failure, with a short text, can hold that state."""


def is_final(error: BaseException) -> bool:
    """Whether trying again would not help."""
    if isinstance(error, BaseExceptionGroup):
        return any(is_final(each) for each in error.exceptions)
    return isinstance(error, FINAL)


def out_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a step's nursery raised, without the group where that says nothing more."""
    _, rest = group.split(Suspended)
    if rest is None:
        return Suspended()
    leaves = list(_leaves(rest))
    if len(leaves) == 1:
        return leaves[0]
    interruptions = [leaf for leaf in leaves if isinstance(leaf, NOT_THE_STEPS_FAULT)]
    return interruptions[0] if interruptions and isinstance(rest, Exception) else rest


def text_of(error: BaseException) -> str:
    """What is stored of it."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(text_of(leaf) for leaf in _leaves(error))[:ERROR_CHARACTERS_MAX]
    text = told(error)[:ERROR_CHARACTERS_MAX]
    return text.encode(errors="backslashreplace").decode()[:ERROR_CHARACTERS_MAX]


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
