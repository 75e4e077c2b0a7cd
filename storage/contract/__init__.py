"""The contract of every event store, as tests.

To test a new store, write a class that opens it; pytest runs the inherited tests:

    class TestMyStore(WritingContract, ReadingContract):
        def open_store(self, limits: Limits | None = None) -> EventStore:
            return MyStore(limits=limits)
"""

from .cases import (
    TIME_NS,
    Outcome,
    append_to,
    appended,
    commit,
    key_entry,
    new_event,
    raised,
    refused,
)
from .reading import ReadingContract
from .writing import WritingContract

__all__ = [
    "TIME_NS",
    "Outcome",
    "ReadingContract",
    "WritingContract",
    "append_to",
    "appended",
    "commit",
    "key_entry",
    "new_event",
    "raised",
    "refused",
]
