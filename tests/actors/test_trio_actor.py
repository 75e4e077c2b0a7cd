"""What holds for actors whose loop is a trio task: Pykka's documented semantics, and what trio adds."""

import gc
import logging
import tracemalloc
import weakref
from types import TracebackType
from typing import Any

import pykka
import pytest
import trio
import trio.testing
from pykka._envelope import Envelope
from pykka.messages import ProxySetAttr

from eventsrc.actors.errors import MailboxFull, WouldDeadlock
from eventsrc.actors.future import TrioFuture
from eventsrc.actors.trio_actor import TrioActor


class Recorder(TrioActor):
    """Notes what it is sent; raises what it is asked to raise; waits for events it is sent."""

    mailbox_capacity = 3

    def __init__(self, notes: list[Any] | None = None) -> None:
        super().__init__()
        self.notes: list[Any] = notes if notes is not None else []

    def on_start(self) -> None:
        self.notes.append("start")

    def on_stop(self) -> None:
        self.notes.append("stop")

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.notes.append(exception_value)

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, Exception):
            raise message
        if isinstance(message, trio.Event):
            return self.wait(message)
        self.notes.append(message)
        return message

    async def wait(self, event: trio.Event) -> str:
        await event.wait()
        return "waited"

    def double(self, number: int) -> int:
        return number * 2


class AsyncRecorder(Recorder):
    async def on_start(self) -> None:  # type: ignore[override]
        await trio.sleep(1)
        self.notes.append("start")

    async def on_stop(self) -> None:  # type: ignore[override]
        await trio.sleep(1)
        self.notes.append("stop")

    async def on_failure(  # type: ignore[override]
        self, exception_type: Any, exception_value: Any, traceback: Any
    ) -> None:
        await trio.sleep(1)
        self.notes.append(exception_value)

    async def on_receive(self, message: Any) -> Any:
        await trio.sleep(1)
        return super().on_receive(message)


@pytest.mark.parametrize("actor_class", [Recorder, AsyncRecorder])
async def test_hooks_and_messages_run_in_order(
    actor_class: type[Recorder], nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    notes: list[Any] = []
    ref = actor_class.start(nursery, notes)
    ref.tell(1)
    assert await ref.ask(2, block=False) == 2
    assert await ref.stop(block=False) is True
    assert notes == ["start", 1, 2, "stop"]
    assert not ref.is_alive()


async def test_messages_before_a_stop_are_handled_and_those_after_it_are_refused(nursery: trio.Nursery) -> None:
    notes: list[Any] = []
    ref = Recorder.start(nursery, notes)
    before = ref.ask("before", block=False)
    stopped = ref.stop(block=False)
    after = ref.ask("after", block=False)
    stopped_again = ref.stop(block=False)
    assert await before == "before"
    with pytest.raises(pykka.ActorDeadError, match="before handling"):
        await after
    assert await stopped is True
    assert await stopped_again is True
    assert notes == ["start", "before", "stop"]
    with pytest.raises(pykka.ActorDeadError):
        ref.tell("too late")
    with pytest.raises(pykka.ActorDeadError):
        await ref.ask("too late", block=False)
    assert await ref.stop(block=False) is False


async def test_an_actor_may_stop_itself(nursery: trio.Nursery) -> None:
    class Once(TrioActor):
        def on_receive(self, message: Any) -> Any:
            self.stop()
            return message

    ref = Once.start(nursery)
    assert await ref.ask(1, block=False) == 1
    await trio.testing.wait_all_tasks_blocked()
    assert not ref.is_alive()


async def test_one_message_is_handled_at_a_time(nursery: trio.Nursery) -> None:
    ref = Recorder.start(nursery)
    gate = trio.Event()
    first = ref.ask(gate, block=False)
    second = ref.ask(2, block=False)
    await trio.testing.wait_all_tasks_blocked()
    assert not second.is_settled()  # type: ignore[attr-defined]
    gate.set()
    assert await first == "waited"
    assert await second == 2


async def test_an_exception_goes_to_the_one_who_asked_and_the_actor_lives_on(nursery: trio.Nursery) -> None:
    ref = Recorder.start(nursery)
    with pytest.raises(KeyError, match="asked"):
        await ref.ask(KeyError("asked"), block=False)
    assert await ref.ask(1, block=False) == 1


@pytest.mark.parametrize("actor_class", [Recorder, AsyncRecorder])
async def test_an_exception_nobody_asked_for_stops_the_actor(
    actor_class: type[Recorder],
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    notes: list[Any] = []
    ref = actor_class.start(nursery, notes)
    error = KeyError("told")
    ref.tell(error)
    with pytest.raises(pykka.ActorDeadError):
        await ref.ask("after", block=False)
    assert notes == ["start", error]
    assert not ref.is_alive()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize("hook", ["on_start", "on_stop", "on_failure"])
async def test_an_exception_in_a_hook_is_logged_and_ends_the_actor(
    hook: str, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: TrioActor, *_: object) -> None:
        raise RuntimeError(f"{hook} is broken")

    broken: type[Recorder] = type("Broken", (Recorder,), {hook: fail})
    ref = broken.start(nursery)
    ref.tell(KeyError()) if hook == "on_failure" else ref.stop(block=False)
    await trio.testing.wait_all_tasks_blocked()
    assert not ref.is_alive()
    assert f"{hook} is broken" in str(caplog.records[-1].exc_info)


async def test_cancelling_answers_the_message_in_hand_and_those_that_wait(caplog: pytest.LogCaptureFixture) -> None:
    notes: list[Any] = []
    async with trio.open_nursery() as nursery:
        ref = Recorder.start(nursery, notes)
        in_hand = ref.ask(trio.Event(), block=False)
        await trio.testing.wait_all_tasks_blocked()
        waiting = ref.ask("waiting", block=False)
        ref.tell("told")
        stopped = ref.stop(block=False)
        nursery.cancel_scope.cancel()
    with pytest.raises(pykka.ActorDeadError, match="while handling"):
        await in_hand
    with pytest.raises(pykka.ActorDeadError, match="before handling"):
        await waiting
    assert await stopped is True
    assert "'told'" in caplog.records[-1].getMessage()
    assert not ref.is_alive()
    assert notes == ["start"]


async def test_an_actor_started_in_a_cancelled_nursery_answers_too() -> None:
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.cancel()
        ref = Recorder.start(nursery)
        future = ref.ask(1, block=False)
    with pytest.raises(pykka.ActorDeadError):
        await future


async def test_a_cancelled_on_stop_still_answers_the_stop() -> None:
    class Slow(TrioActor):
        async def on_stop(self) -> None:  # type: ignore[override]
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        stopped = Slow.start(nursery).stop(block=False)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert await stopped is True


async def test_what_is_not_an_exception_reaches_the_nursery() -> None:
    class Exiting(TrioActor):
        def on_receive(self, message: Any) -> Any:
            raise SystemExit(3)

    futures: list[pykka.Future[Any]] = []
    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            futures.append(Exiting.start(nursery).ask(1, block=False))
    assert caught.group_contains(SystemExit)
    with pytest.raises(pykka.ActorDeadError):
        await futures[0]


async def test_an_answer_that_nobody_waits_for_any_more_is_dropped(nursery: trio.Nursery) -> None:
    ref = Recorder.start(nursery)
    gate = trio.Event()
    future = ref.ask(gate, block=False)
    await trio.testing.wait_all_tasks_blocked()
    assert future.fail(TimeoutError())  # type: ignore[attr-defined]
    gate.set()
    assert await ref.ask(1, block=False) == 1
    with pytest.raises(TimeoutError):
        await future


async def test_a_full_mailbox_refuses_at_once(nursery: trio.Nursery) -> None:
    ref = Recorder.start(nursery)
    ref.tell(trio.Event())
    await trio.testing.wait_all_tasks_blocked()
    for number in range(Recorder.mailbox_capacity):
        ref.tell(number)
    with pytest.raises(MailboxFull):
        ref.tell("one too many")
    with pytest.raises(MailboxFull):
        await ref.ask("one too many", block=False)
    nursery.cancel_scope.cancel()


async def test_a_blocking_ask_on_the_trio_thread_raises_instead_of_hanging(nursery: trio.Nursery) -> None:
    ref = Recorder.start(nursery)
    with pytest.raises(WouldDeadlock):
        ref.ask(1)
    with pytest.raises(WouldDeadlock):
        ref.stop()


async def test_threads_may_tell_ask_and_stop(nursery: trio.Nursery) -> None:
    notes: list[Any] = []
    ref = Recorder.start(nursery, notes)

    def converse() -> list[Any]:
        ref.tell("told")
        with pytest.raises(KeyError):
            ref.ask(KeyError())
        answers = [ref.ask("asked"), ref.proxy().double(4).get(timeout=5), ref.stop()]
        with pytest.raises(pykka.ActorDeadError):
            ref.ask("after")
        return answers

    assert await trio.to_thread.run_sync(converse) == ["asked", 8, True]
    assert notes == ["start", "told", "asked", "stop"]


async def test_a_message_on_its_way_while_the_actor_ends_is_answered(nursery: trio.Nursery) -> None:
    ref = Recorder.start(nursery)
    await ref.stop(block=False)
    await trio.testing.wait_all_tasks_blocked()
    late: TrioFuture[Any] = TrioFuture()
    await trio.to_thread.run_sync(ref.actor_inbox.put, Envelope("saw it alive", reply_to=late))
    with pytest.raises(pykka.ActorDeadError, match="before handling"):
        await late


async def test_a_proxy_calls_methods_and_reads_and_writes_attributes(nursery: trio.Nursery) -> None:
    ref = Recorder.start(nursery)
    proxy = ref.proxy()
    assert await proxy.double(21) == 42
    gate = trio.Event()
    gate.set()
    assert await proxy.wait(gate) == "waited"
    await ref.ask(ProxySetAttr(("notes",), ["written on trio"]), block=False)
    assert await proxy.notes == ["written on trio"]
    await trio.to_thread.run_sync(setattr, proxy, "notes", ["written in a thread"])
    assert await proxy.notes == ["written in a thread"]


async def test_a_handler_may_answer_with_a_future_that_is_not_settled(nursery: trio.Nursery) -> None:
    class Forwarding(TrioActor):
        def __init__(self, target: pykka.ActorRef[Any]) -> None:
            super().__init__()
            self.target = target

        def on_receive(self, message: Any) -> Any:
            return self.target.ask(message, block=False)

    ref = Forwarding.start(nursery, Recorder.start(nursery))
    assert await (await ref.ask(5, block=False)) == 5


async def test_an_unexpected_message_is_logged(nursery: trio.Nursery, caplog: pytest.LogCaptureFixture) -> None:
    assert await TrioActor.start(nursery).ask("what?", block=False) is None
    assert "what?" in caplog.text


async def test_actors_are_not_registered_and_have_their_own_names(nursery: trio.Nursery) -> None:
    refs = [Recorder.start(nursery) for _ in range(100)]
    assert len({ref.actor_urn for ref in refs}) == 100
    assert pykka.ActorRegistry.get_all() == []
    assert {task.name for task in nursery.child_tasks} == {ref.actor_urn for ref in refs}


def test_an_actor_is_started_on_the_trio_thread() -> None:
    with pytest.raises(RuntimeError):
        Recorder.start(None)  # type: ignore[arg-type]


async def test_a_subclass_may_drain_several_envelopes_in_one_turn(nursery: trio.Nursery) -> None:
    turns: list[int] = []

    class Draining(Recorder):
        async def _actor_loop_running(self) -> None:  # type: ignore[override]
            while not self.actor_stopped.is_set():
                envelopes = [await self.actor_inbox.receive()]
                while not self.actor_inbox.empty():
                    envelopes.append(self.actor_inbox.get())
                turns.append(len(envelopes))
                for envelope in envelopes:
                    await self._receive_one(envelope)

    ref = Draining.start(nursery)
    futures = [ref.ask(number, block=False) for number in range(3)]
    assert [await future for future in futures] == [0, 1, 2]
    assert turns == [3]


async def test_a_reference_does_not_keep_a_stopped_actor_in_memory(nursery: trio.Nursery) -> None:
    ref = Recorder.start(nursery)
    actor = ref._actor_weakref
    assert isinstance(actor, weakref.ref)
    await ref.stop(block=False)
    await trio.testing.wait_all_tasks_blocked()
    gc.collect()
    assert actor() is None


async def test_an_idle_actor_takes_less_than_four_kilobytes(nursery: trio.Nursery) -> None:
    count = 1_000
    gc.collect()
    tracemalloc.start()
    try:
        size_before_bytes = tracemalloc.get_traced_memory()[0]
        refs = [TrioActor.start(nursery) for _ in range(count)]
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()
        size_bytes = (tracemalloc.get_traced_memory()[0] - size_before_bytes) / count
    finally:
        tracemalloc.stop()
    assert len(refs) == count
    assert size_bytes < 4_000
