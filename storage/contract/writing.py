"""The contract of every event store: appending, expected versions, atomicity, conditions, limits."""

from typing import Any

import msgspec

from ..commit import ANY, NO_STREAM, STREAM_EXISTS, Appended, ExpectedVersion, NewEvent, StreamAppend
from ..errors import (
    CommitAbandoned,
    CommitAlreadyApplied,
    CommitTooLarge,
    CommitTooManyBytes,
    ConditionNotMet,
    EventTooLarge,
    LimitExceeded,
    PayloadInvalid,
    StreamFull,
    StreamNameInvalid,
    TagInvalid,
    TooManyStreams,
    TooManyTags,
    VersionConflict,
)
from ..event_query import EventQuery
from ..limits import Limits
from .cases import (
    TIME_NS,
    StoreCases,
    append_to,
    appended,
    check_chains,
    commit,
    key_entry,
    new_event,
    positions,
    refused,
    where,
)


class WritingContract(StoreCases):
    """The tests of `append`."""

    # -- appending

    def test_an_empty_store_has_nothing(self) -> None:
        store = self.reopen(self.open_store())
        assert (store.last_position, store.last_commit_id, store.stream_count) == (0, 0, 0)
        assert (store.head("a-1"), store.streams(), store.read(), store.read_stream("a-1")) == (None, [], [], [])
        assert (store.read_type("t"), store.read_category("a"), store.snapshots("a-1")) == ([], [], [])
        assert store.idempotency("a-1", ["k"], now_ns=0) == {}
        assert store.append([]) == []

    def test_an_event_is_stored_as_it_was_given(self) -> None:
        store = self.open_store()
        payload = {"text": "Grüße", "list": [1, 2.5, None, True], "bytes": b"\x00\xff", "nested": {"a": {}}}
        event = NewEvent("thing.made", payload, 3, None, "correlation", "causation", {"user": "eve"})
        appended(store.append([commit(7, StreamAppend("thing-ä-1", NO_STREAM, [event]))])[0])
        (found,) = self.reopen(store).read()
        assert (found.position, found.stream, found.version, found.type) == (1, "thing-ä-1", 1, "thing.made")
        assert (found.schema_version, found.kind, found.time_ns) == (3, "created", TIME_NS)
        assert (found.correlation_id, found.causation_id) == ("correlation", "causation")
        assert (found.metadata, found.payload) == ({"user": "eve"}, payload)
        assert (found.category, found.aggregate_id) == ("thing", "ä-1")

    def test_a_payload_may_come_encoded(self) -> None:
        store = self.open_store()
        raw = msgspec.Raw(msgspec.msgpack.encode({"a": 1}))
        appended(store.append([commit(1, StreamAppend("a-1", ANY, [NewEvent("t", raw)]))])[0])
        assert self.reopen(store).read()[0].payload == {"a": 1}

    def test_the_first_event_creates_and_the_others_update_unless_they_say_otherwise(self) -> None:
        store = self.open_store()
        events = [new_event(), new_event(), new_event(kind="deleted")]
        appended(store.append([commit(1, StreamAppend("a-1", ANY, events))])[0])
        assert [event.kind for event in self.reopen(store).read()] == ["created", "updated", "deleted"]

    def test_the_answer_tells_where_the_events_are(self) -> None:
        store = self.open_store()
        store.append([commit(1, append_to("a-1", 2))])
        outcome = appended(store.append([commit(5, append_to("a-1", 2), append_to("b-1", 1))])[0])
        assert (outcome.commit_id, outcome.first_position, outcome.last_position) == (5, 3, 5)
        assert {name: (head.version, head.position) for name, head in outcome.heads.items()} == {
            "a-1": (4, 4),
            "b-1": (1, 5),
        }
        store = self.reopen(store)
        assert outcome.heads == {"a-1": store.head("a-1"), "b-1": store.head("b-1")}
        assert (store.last_position, store.last_commit_id, store.stream_count) == (5, 5, 2)

    def test_positions_and_versions_have_no_gaps_and_hashes_are_chained(self) -> None:
        store = self.filled(reopen=False)
        store.append([commit(20, append_to("order-2", 0)), commit(21, append_to("order-2", 3))])
        store.append([commit(22, append_to("order-1", 2), append_to("account-ann", 2), append_to("order-1", 1))])
        store = self.reopen(store)
        events = store.read(limit=1_000)
        assert positions(events) == list(range(1, 21))
        for head in store.streams():
            versions = [event.version for event in events if event.stream == head.stream]
            assert versions == list(range(1, head.version + 1))
        check_chains(events)

    def test_a_stream_may_be_named_twice_in_a_commit(self) -> None:
        store = self.open_store()
        appends = append_to("a-1", 1, expected=NO_STREAM), append_to("b-1"), append_to("a-1", 1, expected=1)
        outcome = appended(store.append([commit(1, *appends)])[0])
        assert outcome.heads["a-1"].version == 2
        assert where(self.reopen(store).read_stream("a-1")) == [(1, "a-1", 1), (3, "a-1", 2)]

    # -- expected versions

    def test_expected_versions_that_hold(self) -> None:
        store = self.open_store()
        expectations: tuple[ExpectedVersion, ...] = (NO_STREAM, STREAM_EXISTS, 2, ANY)
        for number, expected in enumerate(expectations, 1):
            appended(store.append([commit(number, append_to("a-1", expected=expected))])[0])
        appended(store.append([commit(9, append_to("b-1", expected=0))])[0])
        assert self.reopen(store).last_position == 5

    def test_expected_versions_that_do_not_hold_name_both_versions(self) -> None:
        store = self.open_store()
        store.append([commit(1, append_to("a-1", 2))])
        cases: list[tuple[str, ExpectedVersion, int]] = [
            ("a-1", NO_STREAM, 2),
            ("a-1", 1, 2),
            ("a-1", 3, 2),
            ("a-1", 0, 2),
            ("b-1", STREAM_EXISTS, 0),
            ("b-1", 1, 0),
        ]
        for number, (stream, expected, actual) in enumerate(cases, 2):
            conflict = refused(store.append([commit(number, append_to(stream, expected=expected))])[0], VersionConflict)
            assert (conflict.stream, conflict.expected, conflict.actual) == (stream, expected, actual)
            assert str(expected) in str(conflict)
        assert self.reopen(store).last_position == 2

    def test_a_commit_without_events_checks_its_expected_version(self) -> None:
        store = self.open_store()
        store.append([commit(1, append_to("a-1"))])
        refused(store.append([commit(2, append_to("a-1", 0, expected=2))])[0], VersionConflict)
        outcome = appended(store.append([commit(3, append_to("a-1", 0, expected=1))])[0])
        assert (outcome.last_position, outcome.heads) == (1, {})

    # -- atomicity

    def test_a_commit_is_stored_in_all_its_streams_or_in_none(self) -> None:
        store = self.open_store()
        store.append([commit(1, append_to("a-1"))])
        bad = commit(2, append_to("b-1"), append_to("a-1", expected=NO_STREAM), append_to("c-1"))
        refused(store.append([bad])[0], VersionConflict)
        store = self.reopen(store)
        assert (store.last_position, store.stream_count) == (1, 1)
        assert (store.head("b-1"), store.head("c-1"), store.read_category("b")) == (None, None, [])

    def test_a_refused_commit_does_not_touch_its_neighbours(self) -> None:
        store = self.open_store()
        entry = key_entry("b-1", "key")
        outcomes = store.append(
            [
                commit(1, append_to("a-1", 2)),
                commit(2, append_to("a-1", expected=NO_STREAM), append_to("b-1"), keys=[entry]),
                commit(3, append_to("b-1", expected=NO_STREAM)),
                commit(4, StreamAppend("a-1", ANY, [NewEvent("t", {"x": object()})])),
                commit(5, append_to("a-1", expected=2)),
            ]
        )
        assert [type(outcome) for outcome in outcomes] == [
            Appended,
            VersionConflict,
            Appended,
            PayloadInvalid,
            Appended,
        ]
        store = self.reopen(store)
        assert where(store.read()) == [(1, "a-1", 1), (2, "a-1", 2), (3, "b-1", 1), (4, "a-1", 3)]
        assert store.idempotency("b-1", ["key"], now_ns=TIME_NS) == {}
        check_chains(store.read())

    def test_a_batch_in_which_all_are_refused_leaves_no_trace(self) -> None:
        store = self.filled(reopen=False)
        before = store.last_position, store.last_commit_id, store.stream_count
        conflict = append_to("new-1", expected=5)
        for outcome in store.append([commit(50, conflict), commit(51, conflict)]):
            refused(outcome, VersionConflict)
        store = self.reopen(store)
        assert (store.last_position, store.last_commit_id, store.stream_count) == before

    def test_a_commit_that_follows_a_refused_one_is_refused_too(self) -> None:
        store = self.open_store()
        outcomes = store.append(
            [
                commit(1, append_to("a-1", expected=3)),
                commit(2, append_to("b-1"), follows=[1]),
                commit(3, append_to("c-1"), follows=[2]),
                commit(4, append_to("d-1")),
                commit(5, append_to("e-1"), follows=[4, 2]),
                commit(6, append_to("f-1"), follows=[4]),
            ]
        )
        kinds = [VersionConflict, CommitAbandoned, CommitAbandoned, Appended, CommitAbandoned, Appended]
        assert [type(outcome) for outcome in outcomes] == kinds
        assert [event.stream for event in self.reopen(store).read()] == ["d-1", "f-1"]

    def test_a_commit_id_is_applied_once(self) -> None:
        store = self.open_store()
        commits = [commit(1, append_to("a-1")), commit(3, append_to("a-1"), follows=[1])]
        store.append(commits[:1])
        store = self.reopen(store)
        first, second = store.append(commits)
        assert (refused(first, CommitAlreadyApplied).commit_id, appended(second).commit_id) == (1, 3)
        store = self.reopen(store)
        for outcome in store.append([*commits, commit(2, append_to("b-1"))]):
            refused(outcome, CommitAlreadyApplied)
        assert (store.last_position, store.last_commit_id) == (2, 3)

    def test_a_commit_without_events_is_remembered_by_its_id(self) -> None:
        store = self.open_store()
        appended(
            store.append(
                [commit(4, append_to("a-1", 0), keys=[key_entry("a-1", "k", version=0, position=-1, event_count=0)])]
            )[0]
        )
        store = self.reopen(store)
        assert (store.last_commit_id, store.last_position, store.stream_count, store.head("a-1")) == (4, 0, 0, None)
        refused(store.append([commit(4, append_to("a-1"))])[0], CommitAlreadyApplied)

    # -- conditions

    def test_a_commit_is_refused_when_an_event_matches_its_condition(self) -> None:
        store = self.open_store()
        claim = StreamAppend("user-1", ANY, [new_event(tags=("name:ann",))])
        query = EventQuery(tags=["name:ann"])
        appended(store.append([commit(1, claim, conditions=[query])])[0])
        again = StreamAppend("user-2", ANY, [new_event(tags=("name:ann",))])
        store = self.reopen(store)
        met = refused(store.append([commit(2, again, conditions=[query])])[0], ConditionNotMet)
        assert met.position == 1
        assert "tags name:ann" in str(met)
        assert (store.last_position, store.head("user-2")) == (1, None)
        later = EventQuery(tags=["name:ann"], after=1)
        appended(store.append([commit(3, again, conditions=[later])])[0])

    def test_a_condition_sees_the_commits_before_it_in_the_same_batch(self) -> None:
        store = self.open_store()
        commits = [
            commit(
                number,
                StreamAppend(f"user-{number}", ANY, [new_event(tags=("name:ann",))]),
                conditions=[EventQuery(tags=["name:ann"])],
            )
            for number in (1, 2, 3)
        ]
        outcomes = store.append(commits)
        assert [type(outcome) for outcome in outcomes] == [Appended, ConditionNotMet, ConditionNotMet]
        assert positions(self.reopen(store).read()) == [1]

    def test_conditions_on_types_categories_and_metadata(self) -> None:
        store = self.open_store()
        event = new_event(type="user.named", tags=("x", "y"), metadata={"by": "eve"})
        appended(store.append([commit(1, StreamAppend("user-1", ANY, [event]))])[0])
        store = self.reopen(store)
        matching = [
            EventQuery(),
            EventQuery(types=["other", "user.named"]),
            EventQuery(category="user", tags=["y", "x"]),
            EventQuery(metadata={"by": "eve"}),
        ]
        others = [
            EventQuery(after=1),
            EventQuery(types=["other"]),
            EventQuery(tags=["x", "z"]),
            EventQuery(category="order"),
            EventQuery(types=["user.named"], metadata={"by": "ann"}),
        ]
        for number, query in enumerate(matching, 2):
            refused(store.append([commit(number, append_to("a-1"), conditions=[query])])[0], ConditionNotMet)
        appended(store.append([commit(10, append_to("a-1"), conditions=others[:1])])[0])
        for number, query in enumerate(others[1:], 11):
            appended(store.append([commit(number, append_to("a-1"), conditions=[query])])[0])

    def test_a_commit_that_only_asks_whether_conditions_hold_leaves_nothing(self) -> None:
        store = self.open_store()
        claim = StreamAppend("user-1", ANY, [new_event(tags=("name:ann",))])
        appended(store.append([commit(1, claim)])[0])
        taken, free = EventQuery(tags=["name:ann"]), EventQuery(tags=["name:bob"])
        nothing = StreamAppend("user-1", 1, [])
        held, broken = store.append([commit(2, nothing, conditions=[free]), commit(3, nothing, conditions=[taken])])
        assert (appended(held).first_position, appended(held).last_position) == (2, 1)
        refused(broken, ConditionNotMet)
        store = self.reopen(store)
        assert (store.last_position, store.last_commit_id) == (1, 1)

    def test_tags_that_cannot_be_keys_or_are_too_many_are_refused(self) -> None:
        store = self.open_store(Limits(event_tags_max=3))
        for number, tags in enumerate([("",), ("a\x00",), ("a" * 495,), ("a", "b", "b")], 1):
            append = StreamAppend("a-1", ANY, [new_event(tags=tags)])
            error = refused(store.append([commit(number, append)])[0], TagInvalid)
            assert (error.stream, error.tag) == ("a-1", tags[-1])
        append = StreamAppend("a-1", ANY, [new_event(tags=("a", "b", "c", "d"))])
        refused(store.append([commit(9, append)])[0], TooManyTags)
        assert self.reopen(store).last_position == 0

    # -- limits and invalid input

    def test_each_limit_has_its_error(self) -> None:
        limits = Limits(
            stream_events_max=4,
            streams_max=3,
            event_size_bytes_max=1_000,
            commit_events_max=6,
            commit_size_bytes_max=2_000,
        )
        store = self.open_store(limits)
        appended(store.append([commit(1, append_to("a-1", 4))])[0])
        big = StreamAppend("b-1", ANY, [NewEvent("t", {"text": "x" * 1_000})])
        rather_big = StreamAppend("b-1", ANY, [NewEvent("t", {"text": "x" * 700})] * 3)
        cases: list[tuple[type[LimitExceeded], list[StreamAppend], str]] = [
            (StreamFull, [append_to("a-1")], "stream_events_max"),
            (StreamFull, [append_to("b-1", 5)], "stream_events_max"),
            (EventTooLarge, [big], "event_size_bytes_max"),
            (CommitTooLarge, [append_to("b-1", 4), append_to("c-1", 3)], "commit_events_max"),
            (CommitTooManyBytes, [rather_big], "commit_size_bytes_max"),
            (TooManyStreams, [append_to(f"b-{number}") for number in range(3)], "streams_max"),
        ]
        for number, (error, appends, limit) in enumerate(cases, 2):
            exceeded = refused(store.append([commit(number, *appends)])[0], error)
            assert (exceeded.limit, exceeded.bound) == (limit, getattr(limits, limit))
            assert exceeded.actual > exceeded.bound
            assert f"Limits.{limit}" in str(exceeded)
        store = self.reopen(store)
        assert (store.last_position, store.stream_count) == (4, 1)

    def test_what_just_fits_is_stored(self) -> None:
        store = self.open_store(Limits(stream_events_max=4, streams_max=2, commit_events_max=6))
        appended(store.append([commit(1, append_to("a-1", 4), append_to("b-1", 2))])[0])
        appended(store.append([commit(2, append_to("b-1", 2))])[0])
        refused(store.append([commit(3, append_to("c-1"))])[0], TooManyStreams)
        store = self.reopen(store)
        refused(store.append([commit(4, append_to("c-1"))])[0], TooManyStreams)
        assert store.last_position == 8

    def test_payloads_and_metadata_that_cannot_be_encoded_are_refused(self) -> None:
        store = self.open_store()
        recursive: dict[str, Any] = {}
        recursive["self"] = recursive
        payloads: list[dict[str, Any]] = [{"a": object()}, {"a": 1 << 64}, {"a": "\ud800"}, recursive]
        for number, payload in enumerate(payloads, 1):
            for event in (NewEvent("t", payload), NewEvent("t", {}, metadata=payload)):
                outcome = store.append([commit(number, StreamAppend("a-1", ANY, [event]))])[0]
                invalid = refused(outcome, PayloadInvalid)
                assert (invalid.stream, invalid.event_type) == ("a-1", "t")
        appended(store.append([commit(9, append_to("a-1"))])[0])

    def test_what_could_not_be_read_again_is_refused(self) -> None:
        store = self.open_store()
        appended(store.append([commit(1, append_to("a-1"))])[0])
        wrong: Any = 42
        events = [
            NewEvent("t", {}, correlation_id=wrong),
            NewEvent("t", {}, causation_id=wrong),
            NewEvent("t", {}, schema_version="1"),  # type: ignore[arg-type]
            NewEvent("t", {}, kind="of its own"),  # type: ignore[arg-type]
            NewEvent("t", {}, metadata={1: 2}),  # type: ignore[dict-item]
            NewEvent("t", {1: 2}),  # type: ignore[dict-item]
            NewEvent("t", msgspec.Raw(msgspec.msgpack.encode([1]))),
            NewEvent("t", msgspec.Raw(b"\xc1")),
        ]
        for number, event in enumerate(events, 2):
            refused(store.append([commit(number, StreamAppend("a-1", ANY, [event]))])[0], PayloadInvalid)
        appended(store.append([commit(99, append_to("a-1"))])[0])
        assert [event.version for event in self.reopen(store).read()] == [1, 2]

    def test_stream_names_that_cannot_be_keys_are_refused(self) -> None:
        store = self.open_store()
        names = ["", "a-\n", "a-\x00b", "a-\x7f", "a-\x85", "a-\ud800", "a" * 495, "ä" * 248]
        for number, name in enumerate(names, 1):
            outcome = store.append([commit(number, append_to(name))])[0]
            assert refused(outcome, StreamNameInvalid).stream == name
            assert (store.head(name), store.read_stream(name)) == (None, [])
        for number, name in enumerate(["a" * 494, "ä" * 247, "-", "a-b-c d/é"], 100):
            appended(store.append([commit(number, append_to(name), keys=[key_entry(name, "key")])])[0])
            assert where(store.read_stream(name)) == [(number - 99, name, 1)]
        store.flush()
        assert self.reopen(store).stream_count == 4

    def test_stored_types_that_cannot_be_keys_are_refused(self) -> None:
        store = self.open_store()
        for number, name in enumerate(["", "a\n", "a\x00", "\ud800", "a" * 495], 1):
            outcome = store.append([commit(number, append_to("a-1", type=name))])[0]
            assert refused(outcome, PayloadInvalid).event_type == name
        appended(store.append([commit(9, append_to("a-1", type="a" * 494))])[0])
        assert positions(self.reopen(store).read_type("a" * 494)) == [1]
