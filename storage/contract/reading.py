"""The contract of every event store: reading, snapshots, idempotency keys, closing."""

import hashlib
from typing import Any

import msgspec
from msgspec import structs

from ..commit import ANY, IdempotencyEntry, StreamAppend
from ..errors import (
    StoreClosed,
    VersionConflict,
)
from ..record import StreamHead
from ..snapshot import Snapshot
from .cases import (
    TIME_NS,
    StoreCases,
    append_to,
    appended,
    commit,
    key_entry,
    new_event,
    positions,
    raised,
    refused,
    where,
)


class ReadingContract(StoreCases):
    """The tests of reading."""

    # -- reading

    def test_reading_by_position(self) -> None:
        store = self.filled()
        every = list(range(1, 13))
        assert positions(store.read()) == every
        assert positions(store.read(backwards=True)) == every[::-1]
        for after in (-1, 0, 1, 5, 11, 12, 99):
            for before in (None, 0, 1, 5, 7, 12, 13, 99):
                for limit in (1, 3, 100):
                    chosen = [at for at in every if at > after and (before is None or at < before)]
                    forwards = store.read(after=after, before=before, limit=limit)
                    backwards = store.read(after=after, before=before, limit=limit, backwards=True)
                    assert positions(forwards) == chosen[:limit]
                    assert positions(backwards) == chosen[::-1][:limit]

    def test_reading_a_stream(self) -> None:
        store = self.filled()
        assert where(store.read_stream("account-ann")) == [(at * 3 - 2, "account-ann", at) for at in range(1, 5)]
        for first in (-1, 0, 1, 2, 4, 5):
            for last in (None, 0, 1, 2, 4, 9):
                for limit in (1, 2, 100):
                    chosen = [at for at in range(1, 5) if at >= first and (last is None or at <= last)]
                    bounds: dict[str, Any] = {"from_version": first, "to_version": last, "limit": limit}
                    forwards = store.read_stream("order-1", **bounds)
                    backwards = store.read_stream("order-1", **bounds, backwards=True)
                    assert [event.version for event in forwards] == chosen[:limit]
                    assert [event.version for event in backwards] == chosen[::-1][:limit]
        assert store.read_stream("order-2") == store.read_stream("order") == []

    def test_reading_by_type_and_by_category(self) -> None:
        store = self.filled()
        cases = [
            (store.read_type, "thing.opened", [1, 2, 3]),
            (store.read_type, "thing.changed", list(range(4, 13))),
            (store.read_type, "thing", []),
            (store.read_category, "account", [1, 3, 4, 6, 7, 9, 10, 12]),
            (store.read_category, "order", [2, 5, 8, 11]),
            (store.read_category, "acc", []),
        ]
        for read, name, expected in cases:
            for after in (0, 1, 4, 6, 12):
                for before in (None, 1, 4, 7, 13):
                    for limit in (1, 2, 100):
                        chosen = [at for at in expected if at > after and (before is None or at < before)]
                        bounds: dict[str, Any] = {"after": after, "before": before, "limit": limit}
                        assert positions(read(name, **bounds)) == chosen[:limit], (name, bounds)
                        backwards = read(name, **bounds, backwards=True)
                        assert positions(backwards) == chosen[::-1][:limit], (name, bounds)

    def test_reading_by_tag(self) -> None:
        store = self.open_store()
        for number in range(1, 13):
            tags = tuple(tag for tag, every in (("even", 2), ("third", 3)) if number % every == 0)
            event = new_event(number, tags=tags)
            appended(store.append([commit(number, StreamAppend(f"a-{number % 2}", ANY, [event]))])[0])
        store = self.reopen(store)
        assert positions(store.read_tag("even")) == [2, 4, 6, 8, 10, 12]
        assert positions(store.read_tag("third", after=3, before=12)) == [6, 9]
        assert positions(store.read_tag("even", backwards=True, limit=2)) == [12, 10]
        assert store.read_tag("none") == []
        assert store.read_tag("even", limit=1)[0].tags == ("even",)
        assert store.read(after=5, limit=1)[0].tags == ("even", "third")

    def test_the_names_of_stored_types_and_tags(self) -> None:
        store = self.open_store()
        assert store.names_in("types") == store.names_in("tags") == []
        for number, name in enumerate(("é", "b.c", "b", "a", "b.a", "a"), 1):
            event = new_event(number, type=name, tags=(f"{name}:{number}",))
            appended(store.append([commit(number, StreamAppend("s-1", ANY, [event]))])[0])
        store = self.reopen(store)
        assert store.names_in("types") == ["a", "b", "b.a", "b.c", "é"]
        assert store.names_in("types", "b") == ["b", "b.a", "b.c"]
        assert store.names_in("tags", "a:") == ["a:4", "a:6"]
        assert store.names_in("tags", "c") == []

    def test_reading_what_no_key_can_name_finds_nothing(self) -> None:
        store = self.filled()
        assert store.names_in("types", "x" * 600) == store.names_in("tags", "x\x00y") == []
        for name in ("", "x" * 600, "x\x00y"):
            assert (store.head(name), store.read_stream(name), store.snapshots(name)) == (None, [], [])
            assert (store.read_type(name), store.read_category(name), store.streams(after="x" * 600)) == ([], [], [])
            assert store.idempotency(name, [name], now_ns=0) == {}

    def test_a_reading_without_a_limit_takes_a_hundred(self) -> None:
        store = self.open_store()
        store.append([commit(1, append_to("a-1", 150))])
        store = self.reopen(store)
        assert positions(store.read()) == positions(store.read_stream("a-1")) == list(range(1, 101))
        assert positions(store.read_type("thing.happened", backwards=True)) == list(range(150, 50, -1))

    def test_heads_and_streams(self) -> None:
        store = self.filled()
        names = ["account-ann", "account-bob", "order-1"]
        heads = store.streams()
        assert [head.stream for head in heads] == names
        assert heads == [store.head(name) for name in names]
        assert [(head.version, head.position) for head in heads] == [(4, 10), (4, 12), (4, 11)]
        last = store.read(backwards=True, limit=1)[0]
        assert heads[1] == StreamHead("account-bob", 4, 12, last.hash)
        assert [head.stream for head in store.streams(limit=2)] == names[:2]
        assert [head.stream for head in store.streams(after="account-ann", limit=1)] == ["account-bob"]
        assert [head.stream for head in store.streams(category="account")] == names[:2]
        assert [head.stream for head in store.streams(category="account", after="account-ann")] == ["account-bob"]
        assert [head.stream for head in store.streams(category="order", after="account-ann")] == ["order-1"]
        assert store.streams(category="acc") == store.streams(after="order-1") == store.streams(category="\udcff") == []
        assert store.stream_count == 3

    def test_a_category_is_what_precedes_the_first_dash(self) -> None:
        store = self.open_store()
        names = ["a", "a-1", "a-b-2", "a+1", "ab-1"]
        store.append([commit(1, *map(append_to, names))])
        store = self.reopen(store)
        assert positions(store.read_category("a")) == [1, 2, 3]
        assert [head.stream for head in store.streams(category="a")] == ["a", "a-1", "a-b-2"]
        assert [head.stream for head in store.streams(category="a", after="a")] == ["a-1", "a-b-2"]
        assert [head.stream for head in store.streams(category="a", limit=1)] == ["a"]
        assert [head.stream for head in store.streams()] == sorted(names)

    # -- snapshots

    def test_the_ten_newest_snapshots_are_kept(self) -> None:
        store = self.open_store()
        store.append([commit(1, append_to("a-1", 30), append_to("a", 30))])
        hashes = {event.version: event.hash for event in store.read_stream("a-1")}
        for version in (*range(1, 15), 2, 30):
            store.append([], [Snapshot("a-1", version, "schema", TIME_NS, hashes[version], {"version": version})])
        store.append([], [Snapshot("a", 3, "schema", TIME_NS, store.read_stream("a")[2].hash, {})])
        store = self.reopen(store)
        kept = store.snapshots("a-1")
        assert [snapshot.version for snapshot in kept] == [30, *range(14, 5, -1)]
        state_hash = hashlib.sha256(msgspec.msgpack.encode({"version": 30})).digest()
        assert kept[0] == Snapshot("a-1", 30, "schema", TIME_NS, hashes[30], {"version": 30}, state_hash)
        assert [snapshot.version for snapshot in store.snapshots("a-1", limit=2)] == [30, 14]
        assert [snapshot.version for snapshot in store.snapshots("a-1", to_version=29, limit=2)] == [14, 13]
        assert [snapshot.version for snapshot in store.snapshots("a-1", to_version=13)] == [*range(13, 5, -1)]
        assert store.snapshots("a-1", to_version=5) == []
        assert [snapshot.version for snapshot in store.snapshots("a")] == [3]
        assert store.snapshots("b-1") == []

    def test_a_snapshot_is_written_along_with_commits_and_replaced_by_one_of_its_version(self) -> None:
        store = self.open_store()
        first = appended(store.append([commit(1, append_to("a-1"))])[0]).heads["a-1"]
        for state in (2, 3):
            snapshot = Snapshot("a-1", 1, "s", 0, first.hash, {"state": state})
            appended(store.append([commit(state, append_to("a-1"))], [snapshot])[0])
        store = self.reopen(store)
        assert [snapshot.state for snapshot in store.snapshots("a-1")] == [{"state": 3}]

    def test_the_snapshots_of_a_stream_can_be_removed(self) -> None:
        store = self.open_store()
        heads = {}
        for number, name in enumerate(("a-1", "a-10", "b-1"), 1):
            heads[name] = appended(store.append([commit(number, append_to(name))])[0]).heads[name]
        store.append([], [Snapshot(name, 1, "s", 0, head.hash, {}) for name, head in heads.items()])
        store.drop_snapshots(["a-1", "b-1", "c-1"])
        assert [len(store.snapshots(name)) for name in ("a-1", "a-10", "b-1")] == [0, 1, 0]
        store.drop_snapshots([])
        again = self.reopen(store)
        assert [len(again.snapshots(name)) for name in ("a-1", "a-10", "b-1")] == [0, 1, 0]

    def test_snapshots_do_not_depend_on_the_fate_of_commits_beside_them(self) -> None:
        store = self.open_store()
        head = appended(store.append([commit(1, append_to("a-1"))])[0]).heads["a-1"]
        snapshot = Snapshot("a-1", 1, "s", 0, head.hash, {})
        refused(store.append([commit(2, append_to("a-1", expected=9))], [snapshot])[0], VersionConflict)
        assert [snapshot.version for snapshot in self.reopen(store).snapshots("a-1")] == [1]

    def test_a_snapshot_in_quarantine_is_only_given_to_who_asks_for_those(self) -> None:
        store = self.open_store()
        head = appended(store.append([commit(1, append_to("a-1"))])[0]).heads["a-1"]
        proved = Snapshot("a-1", 1, "s", 0, head.hash, {}, is_proved=True)
        store.append([], [proved])
        assert [snapshot.is_proved for snapshot in store.snapshots("a-1")] == [True]
        store.append([], [structs.replace(proved, is_proved=False, quarantined="another state")])
        store = self.reopen(store)
        assert store.snapshots("a-1") == []
        assert [each.quarantined for each in store.snapshots("a-1", quarantined=True)] == ["another state"]

    def test_the_hash_of_an_event_is_found_by_its_version(self) -> None:
        store = self.open_store()
        store.append([commit(1, append_to("a-1", 3))])
        assert [store.event_hash("a-1", version) for version in (1, 2, 3)] == [
            event.hash for event in store.read_stream("a-1")
        ]
        assert store.event_hash("a-1", 4) is store.event_hash("a-1", 0) is store.event_hash("b-1", 1) is None

    def test_the_head_of_a_stream_as_of_a_position_and_the_time_there(self) -> None:
        store = self.open_store()
        for number in range(1, 7):
            stream = "a-1" if number % 2 else "b-1"
            store.append([commit(number, append_to(stream, number), time_ns=TIME_NS + number)])
        store = self.reopen(store)
        store.append([commit(7, append_to("a-1"), time_ns=TIME_NS + 7)])
        events = store.read()
        for position in range(store.last_position + 2):
            newest = [event for event in events if event.stream == "a-1" and event.position <= position][-1:]
            expected = [StreamHead("a-1", event.version, event.position, event.hash) for event in newest]
            assert store.head_at("a-1", position) == (expected[0] if expected else None)
        assert store.head_at("c-1", 5) is None
        assert [store.time_at(event.position) for event in events] == [event.time_ns for event in events]

    # -- idempotency keys

    def test_a_key_is_found_until_its_window_closes(self) -> None:
        store = self.open_store()
        store.append([commit(1, append_to("b-1", 3))])
        entry = key_entry("a-1", "key", version=2, position=1, event_count=2, expires_ns=TIME_NS + 100)
        store.append([commit(2, append_to("a-1", 2), keys=[entry])])
        store = self.reopen(store)
        stored = IdempotencyEntry("a-1", "key", 2, 5, 2, TIME_NS + 100)
        assert store.idempotency("a-1", ["key", "other"], now_ns=TIME_NS + 99) == {"key": stored}
        assert store.idempotency("a-1", ["key"], now_ns=TIME_NS + 100) == {}
        assert store.idempotency("a-1", ["other"], now_ns=TIME_NS) == {}
        assert store.idempotency("a-2", ["key"], now_ns=TIME_NS) == {}

    def test_a_key_without_events_points_to_where_the_log_was(self) -> None:
        store = self.open_store()
        store.append([commit(1, append_to("b-1", 3))])
        entry = key_entry("a-1", "key", version=0, position=-1, event_count=0)
        appended(store.append([commit(2, append_to("a-1", 0), keys=[entry])])[0])
        store.append([commit(3, append_to("b-1", 1))])
        store = self.reopen(store)
        found = store.idempotency("a-1", ["key"], now_ns=TIME_NS)
        assert found == {"key": IdempotencyEntry("a-1", "key", 0, 3, 0, TIME_NS + 100)}

    def test_the_newest_use_of_a_key_counts(self) -> None:
        store = self.open_store()
        for number in (1, 2):
            expires_ns = TIME_NS + number * 100
            entry = key_entry("a-1", "key", version=number, expires_ns=expires_ns)
            store.append([commit(number, append_to("a-1"), keys=[entry], time_ns=expires_ns - 100)])
        store = self.reopen(store)
        assert store.idempotency("a-1", ["key"], now_ns=TIME_NS + 150)["key"].version == 2
        assert store.idempotency("a-1", ["key"], now_ns=TIME_NS + 200) == {}

    def test_many_keys_are_found_while_old_ones_are_dropped(self) -> None:
        store = self.open_store()
        for number in range(60):
            now = TIME_NS + number * 10
            keys = [key_entry("a-1", f"{number}-{at}", version=number + 1, expires_ns=now + 200) for at in range(50)]
            appended(store.append([commit(number + 1, append_to("a-1"), keys=keys, time_ns=now)])[0])
        store = self.reopen(store)
        now = TIME_NS + 590
        wanted = [f"{number}-{at}" for number in range(60) for at in (0, 49)]
        found = store.idempotency("a-1", wanted, now_ns=now)
        assert sorted(found) == sorted(key for key in wanted if int(key.split("-")[0]) >= 40)
        assert all(entry.version == int(key.split("-")[0]) + 1 for key, entry in found.items())

    # -- closing

    def test_a_closed_store_says_so(self) -> None:
        store = self.filled(reopen=False)
        store.close()
        store.close()
        raised(StoreClosed, lambda: store.append([commit(99, append_to("account-ann"))]))
        raised(StoreClosed, lambda: store.append([commit(99, append_to("new-1"))]))
        raised(StoreClosed, lambda: store.read(after=0))
        raised(StoreClosed, lambda: store.read_type("thing.opened"))
        raised(StoreClosed, store.streams)
