"""A naive model of a store: its events in one list, and what follows from them. See `test_whole.py`."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
from whole_domain import (
    UNKNOWN,
    Balance,
    Generation,
    Idle,
    Introduce,
    Introduced,
    Name,
    Note,
    Noted,
    Paid,
    PaidCents,
    Pay,
    Visit,
    Visited,
)

from eventsrc import AggregateDeleted, Delete, Deleted, EventSourcingError, Recreate, Recreated, Rejected, StoredEvent
from eventsrc.runtime.testing import WallClock
from eventsrc.storage.keys.subject_keys import KEY_TAG_PREFIX

ENDS = ("saga.completed", "saga.compensated", "saga.parked", "saga.abandoned")
KEY_SECONDS = 300


@attrs.define
class Happened:
    """An event: what it says, in words of the model's own, and how the log stores it once it does."""

    stream: str
    type: str
    data: dict[str, Any]
    tags: tuple[str, ...] = ()
    schema_version: int = 1
    kind: str = "updated"
    subject: str = ""
    """Whose personal data it holds; empty where it holds none."""
    times_forgotten: int = 0
    """How often the subject had been forgotten before the event."""
    metadata: Mapping[str, Any] | None = None
    stored: StoredEvent | None = None

    @property
    def at(self) -> StoredEvent:
        assert self.stored is not None, "it is in the log"
        return self.stored

    @property
    def of(self) -> str:
        return self.stream.partition("-")[2]


@attrs.frozen
class Answered:
    """What the receipt of a command with an idempotency key said."""

    command: object
    events: list[Happened]
    version: int
    position: int
    expires_ns: int


Decided = list[Happened] | type[EventSourcingError]


class Model:
    def __init__(self, clock: WallClock, generation: Generation) -> None:
        self.clock = clock
        self.generation = generation
        self.events: list[Happened] = []
        self.expected: list[Happened] = []
        """What commands must have stored, by stream in this order."""
        self.forgotten: Counter[str] = Counter()
        self.answers: dict[tuple[str, str], Answered] = {}
        """By stream and idempotency key: those that must be known."""

    # --- commands

    def stream(self, name: str) -> list[Happened]:
        return [event for event in self.events if event.stream == name]

    def decide(self, stream: str, command: object) -> Decided:
        """The events of a command to an aggregate, after all events there are and those that are expected."""
        before = [event for event in self.events + self.expected if event.stream == stream]
        is_deleted = _is_deleted(before)
        if isinstance(command, Recreate):
            return [Happened(stream, "eventsrc.recreated", {}, kind="created")] if is_deleted else Rejected
        if is_deleted:
            return AggregateDeleted
        if isinstance(command, Delete):
            return [Happened(stream, "eventsrc.deleted", {}, kind="deleted")] if before else Rejected
        found = self._said(stream, command, before)
        if isinstance(found, list) and found and not before:
            found[0].kind = "created"
        return found

    def _said(self, stream: str, command: object, before: list[Happened]) -> Decided:
        of = stream.partition("-")[2]
        match command:
            case Pay(amount, note):
                if self._balance(before) + amount < 0 or note == "forged":
                    return Rejected
                version = 2 if self.generation.is_new else 1
                return [Happened(stream, "account.paid", {"amount": amount, "note": note}, schema_version=version)]
            case Introduce(name):
                return [self._of(of if name != UNKNOWN else "", Happened(stream, "account.introduced", {"name": name}))]
            case Note(text, labels):
                tags = tuple(f"label:{label}" for label in labels)
                given = {"labels": list(labels)}
                return [Happened(stream, "account.noted", {"text": each, **given}, tags) for each in text.split("+")]
            case Visit(guest, words):
                event = Happened(stream, "room.visited", {"guest": guest, "words": words}, (f"guest:{guest}",))
                return [self._of(guest if words != "..." else "", event)]
            case _:
                assert isinstance(command, Idle)
                return []

    def _of(self, subject: str, event: Happened) -> Happened:
        event.subject, event.times_forgotten = subject, self.forgotten[subject]
        return event

    @staticmethod
    def _balance(events: Iterable[Happened]) -> int:
        balance = 0
        for event in events:
            balance = 0 if event.type == "eventsrc.deleted" else balance + event.data.get("amount", 0)
        return balance

    def expect(self, events: Iterable[Happened], metadata: Mapping[str, Any] | None = None) -> None:
        for event in events:
            event.metadata = metadata
            self.expected.append(event)

    # --- the log

    def take(self, stored: StoredEvent) -> None:
        """Take in the next event of the log, which must be expected unless a saga has made it."""
        event = self._matching(stored)
        assert stored.position == len(self.events) + 1
        assert stored.version == len(self.stream(stored.stream)) + 1
        assert stored.time_ns == max(self.clock(), self.events[-1].at.time_ns if self.events else 0)
        tags = tuple(tag for tag in stored.tags if not tag.startswith(KEY_TAG_PREFIX))
        said = (stored.type, stored.schema_version, stored.kind, tags)
        assert said == (event.type, event.schema_version, event.kind, event.tags)
        assert event.metadata is None or stored.metadata == event.metadata
        event.stored = stored
        self.events.append(event)

    def _matching(self, stored: StoredEvent) -> Happened:
        if stored.kind == "saga_step":
            return Happened(stored.stream, stored.type, stored.payload, kind="saga_step")
        if "saga_call" in stored.metadata:
            expected, self.expected = self.expected, []
            decided = self.decide(stored.stream, _command_of(stored))
            self.expected = expected
            assert isinstance(decided, list)
            return decided[0]
        event = next(event for event in self.expected if event.stream == stored.stream)
        self.expected.remove(event)
        return event

    def go_back_to(self, position: int) -> None:
        """What a copy of the store up to a position has. Of the idempotency keys it has those of events, if alive."""
        self.events = self.events[:position]
        now_ns = self.events[-1].at.time_ns
        for key, answer in list(self.answers.items()):
            last = answer.events[-1].at.position if answer.events else position + 1
            if last > position or answer.expires_ns <= now_ns:
                del self.answers[key]

    def position_at(self, time_ns: int) -> int:
        return sum(event.at.time_ns <= time_ns for event in self.events)

    # --- what follows from the events

    def is_known(self, event: Happened) -> bool:
        return event.times_forgotten == self.forgotten[event.subject]

    def read(self, event: Happened) -> Any:
        """The event as an object of the class of today; None for those of other streams."""
        data = event.data
        match event.type:
            case "account.paid" if self.generation.is_new:
                return Paid(data["amount"], [data["note"]])
            case "account.paid":
                return PaidCents(data["amount"], data["note"])
            case "account.introduced":
                return Introduced(event.of, data["name"] if self.is_known(event) else UNKNOWN)
            case "account.noted":
                return Noted(data["text"], data["labels"])
            case "room.visited":
                return Visited(data["guest"], data["words"] if self.is_known(event) else "...")
            case "eventsrc.deleted":
                return Deleted("")
            case "eventsrc.recreated":
                return Recreated("")
        return None

    def state(self, stream: str, *, version: int | None = None, position: int | None = None) -> dict[str, Any] | None:
        """The fields of an aggregate; None where it is deleted."""
        events = [
            event
            for event in self.stream(stream)
            if (version is None or event.at.version <= version) and (position is None or event.at.position <= position)
        ]
        if _is_deleted(events):
            return None
        begin = max((each.at.version for each in events if each.type == "eventsrc.recreated"), default=0)
        said = [self.read(event) for event in events if event.at.version > begin]
        if stream.startswith("room"):
            visits = [each for each in said if isinstance(each, Visited)]
            return {"visits": visits, "guests": {each.guest for each in visits}}
        payments = [each.data for each in events if each.type == "account.paid" and each.at.version > begin]
        paid: dict[str, int] = {}
        for data in payments:
            paid[data["note"]] = paid.get(data["note"], 0) + data["amount"]
        names = [each.name for each in said if isinstance(each, Introduced)]
        texts = [each.text for each in said if isinstance(each, Noted)]
        fields = {"balance": sum(paid.values()), "paid": paid, "texts": texts, "name": names[-1] if names else ""}
        return fields | ({"payments": len(payments)} if self.generation.is_new else {})

    def balances(self, position: int) -> list[Balance]:
        rows: dict[str, Balance] = {}
        for event in self.events[:position]:
            if event.type == "account.paid":
                row = rows.get(event.of, Balance(event.of, 0, 0))
                rows[event.of] = Balance(
                    row.account, row.amount + event.data["amount"], row.payments + 1, event.data["note"]
                )
            elif event.type == "eventsrc.deleted" and event.stream.startswith("account"):
                rows.pop(event.of, None)
        return sorted(rows.values(), key=lambda row: row.account)

    def names(self, position: int) -> list[Name]:
        introduced = [event for event in self.events[:position] if event.type == "account.introduced"]
        rows = {event.of: Name(event.of, self.read(event).name, event.at.position) for event in introduced}
        return sorted(rows.values(), key=lambda row: row.person)

    def guests(self, position: int) -> list[Name]:
        rows: list[Name] = []
        for event in self.events[:position]:
            if event.type == "room.visited":
                visited = self.read(event)
                rows.append(Name(visited.guest, visited.words, event.at.position))
            elif event.type == "eventsrc.subject_forgotten":
                rows = [row for row in rows if row.person != event.data["subject"]]
        return sorted(rows, key=lambda row: (row.person, row.position))

    def sagas(self, position: int) -> dict[str, str]:
        """How each saga ended, or was parked; "" for those under way."""
        found: dict[str, str] = {}
        for event in self.events[:position]:
            if event.kind == "saga_step":
                found[event.stream] = event.type.removeprefix("saga.") if event.type in ENDS else ""
        return found

    def expires_ns(self) -> int:
        return self.clock() + KEY_SECONDS * 1_000_000_000


def _is_deleted(events: Iterable[Happened]) -> bool:
    turns = [event.type for event in events if event.type in ("eventsrc.deleted", "eventsrc.recreated")]
    return bool(turns) and turns[-1] == "eventsrc.deleted"


def _command_of(stored: StoredEvent) -> object:
    """The command of a saga that has made an event."""
    payload = stored.payload
    if stored.type == "account.paid":
        is_old = stored.schema_version == 1
        return Pay(payload["cents"], payload["note"]) if is_old else Pay(payload["amount"], payload["notes"][0])
    return Visit(payload["guest"], "gave" if stored.aggregate_id == "hall" else "was greeted")
