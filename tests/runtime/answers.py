"""What a runtime answered must be in its store when that is opened again."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventsrc import AggregateRef, EventLog, EventSourcingError, Receipt, make_converter
from eventsrc.actors.aggregates.request import Request
from eventsrc.storage.verification.verify import verify


@contextmanager
def kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Note each receipt that `ask` and `ask_many` return within, and look for its events in the store afterwards."""
    receipts: list[Receipt] = []
    ask_request, ask_many = AggregateRef.ask_request, AggregateRef.ask_many

    async def noted_ask(self: AggregateRef[Any], request: Request, timeout_seconds: float) -> Receipt:
        receipts.append(receipt := await ask_request(self, request, timeout_seconds))
        return receipt

    async def noted_ask_many(
        self: AggregateRef[Any], commands: Sequence[object], **options: Any
    ) -> list[Receipt | EventSourcingError]:
        answers = await ask_many(self, commands, **options)
        receipts.extend(answer for answer in answers if isinstance(answer, Receipt))
        return answers

    with monkeypatch.context() as patch:
        patch.setattr(AggregateRef, "ask_request", noted_ask)
        patch.setattr(AggregateRef, "ask_many", noted_ask_many)
        yield
    if path.exists():
        with closing(EventLog(path)) as log:
            assert list(verify(log)) == []
            for receipt in receipts:
                check_is_stored(receipt, log)


def check_is_stored(receipt: Receipt, log: EventLog) -> None:
    count = len(receipt.events)
    stored = log.read_stream(receipt.stream, from_version=receipt.version - count + 1, limit=count) if count else []
    assert _is_stored_as([make_converter().unstructure(event) for event in receipt.events], [e.payload for e in stored])
    assert not stored or (stored[-1].version, stored[-1].position) == (receipt.version, receipt.position)


def _is_stored_as(answered: Any, stored: Any) -> bool:
    """Whether stored data are what was answered; what is sealed may be anything."""
    if isinstance(stored, msgspec.msgpack.Ext):
        return True
    if isinstance(stored, dict) and isinstance(answered, dict):
        return stored.keys() == answered.keys() and all(_is_stored_as(answered[name], stored[name]) for name in stored)
    if isinstance(stored, list) and isinstance(answered, list):
        return len(stored) == len(answered) and all(map(_is_stored_as, answered, stored))
    return bool(stored == answered)
