"""What holds for the bounded inbox of a trio actor."""

import logging
import queue
from typing import Any

import pykka
import pytest
import trio
import trio.testing
from pykka._envelope import Envelope
from pykka.messages import _ActorStop

from eventsrc.actors.errors import MailboxFull
from eventsrc.actors.future import TrioFuture
from eventsrc.actors.mailbox import Mailbox, answer, answer_error


async def receive_into(mailbox: Mailbox, messages: list[Any]) -> None:
    messages.append((await mailbox.receive()).message)


async def test_envelopes_come_out_in_the_order_they_went_in() -> None:
    mailbox = Mailbox(10)
    for number in range(3):
        mailbox.put(Envelope(number))
    assert len(mailbox) == 3
    assert not mailbox.empty()
    assert [(await mailbox.receive()).message, mailbox.get().message, mailbox.get().message] == [0, 1, 2]
    assert mailbox.empty()
    assert len(mailbox) == 0


async def test_get_does_not_wait() -> None:
    with pytest.raises(queue.Empty):
        Mailbox(1).get()


async def test_a_mailbox_holds_at_least_one_message() -> None:
    with pytest.raises(ValueError, match="capacity=0"):
        Mailbox(0)


def test_a_mailbox_belongs_to_a_trio_run() -> None:
    with pytest.raises(RuntimeError):
        Mailbox(1)


async def test_a_parked_receiver_is_woken_by_a_put() -> None:
    mailbox = Mailbox(10)
    messages: list[Any] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_into, mailbox, messages)
        await trio.testing.wait_all_tasks_blocked()
        mailbox.put(Envelope("first"))
        mailbox.put(Envelope("second"))
    assert messages == ["first"]
    assert len(mailbox) == 1


async def test_a_receiver_whose_envelope_is_taken_by_a_get_goes_on_waiting() -> None:
    mailbox = Mailbox(10)
    messages: list[Any] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_into, mailbox, messages)
        await trio.testing.wait_all_tasks_blocked()
        mailbox.put(Envelope("first"))
        assert mailbox.get().message == "first"
        await trio.testing.wait_all_tasks_blocked()
        mailbox.put(Envelope("second"))
    assert messages == ["second"]


async def test_a_cancelled_receive_takes_nothing(autojump_clock: trio.testing.MockClock) -> None:
    mailbox = Mailbox(10)
    with trio.move_on_after(1):
        await mailbox.receive()
    mailbox.put(Envelope("kept"))
    with trio.CancelScope() as scope:
        scope.cancel()
        await mailbox.receive()
    assert scope.cancelled_caught
    assert (await mailbox.receive()).message == "kept"


async def test_an_envelope_is_not_lost_when_its_receiver_is_cancelled_at_the_same_time() -> None:
    mailbox = Mailbox(10)
    messages: list[Any] = []
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive_into, mailbox, messages)
            await trio.testing.wait_all_tasks_blocked()
            mailbox.put(Envelope("put first"))
            scope.cancel()
    assert messages == ["put first"]


async def test_receiving_is_a_checkpoint() -> None:
    mailbox = Mailbox(10)
    mailbox.put(Envelope(1))
    with trio.testing.assert_checkpoints():
        await mailbox.receive()


async def test_a_full_mailbox_refuses_and_says_what_to_do() -> None:
    mailbox = Mailbox(2)
    mailbox.put(Envelope(1))
    mailbox.put(Envelope(2))
    with pytest.raises(MailboxFull, match=r"2 messages are waiting.*larger mailbox") as caught:
        mailbox.put(Envelope(3))
    assert caught.value.capacity == mailbox.capacity == 2
    assert caught.value.code == "mailbox_full"
    mailbox.get()
    mailbox.put(Envelope(3))


async def test_a_request_to_stop_fits_in_a_full_mailbox() -> None:
    mailbox = Mailbox(1)
    mailbox.put(Envelope(1))
    mailbox.put(Envelope(_ActorStop()))
    assert len(mailbox) == 2


async def test_a_put_from_a_thread_arrives_in_order_and_wakes_the_receiver() -> None:
    mailbox = Mailbox(10)
    messages: list[Any] = []

    def put_both() -> None:
        mailbox.put(Envelope(1))
        mailbox.put(Envelope(2))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_into, mailbox, messages)
        await trio.testing.wait_all_tasks_blocked()
        await trio.to_thread.run_sync(put_both)
    assert messages == [1]
    assert (await mailbox.receive()).message == 2


async def test_a_full_mailbox_answers_an_ask_from_a_thread_with_the_error() -> None:
    mailbox = Mailbox(1)
    mailbox.put(Envelope(1))
    for future in (TrioFuture[Any](), pykka.ThreadingFuture[Any]()):
        await trio.to_thread.run_sync(mailbox.put, Envelope(2, reply_to=future))
        with pytest.raises(MailboxFull):
            await trio.to_thread.run_sync(future.get)


async def test_a_full_mailbox_logs_a_tell_from_a_thread(caplog: pytest.LogCaptureFixture) -> None:
    mailbox = Mailbox(1)
    mailbox.put(Envelope(1))
    await trio.to_thread.run_sync(mailbox.put, Envelope("unlucky"))
    await trio.testing.wait_all_tasks_blocked()
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "unlucky" in record.getMessage()
    assert len(mailbox) == 1


def test_after_the_trio_run_an_ask_is_answered_and_a_tell_raises() -> None:
    async def make() -> Mailbox:
        return Mailbox(1)

    mailbox = trio.run(make)
    future: TrioFuture[Any] = TrioFuture()
    mailbox.put(Envelope(1, reply_to=future))
    with pytest.raises(pykka.ActorDeadError, match="over"):
        future.get()
    with pytest.raises(pykka.ActorDeadError):
        mailbox.put(Envelope(1))


async def test_a_closed_mailbox_refuses_what_waits_and_what_comes() -> None:
    mailbox = Mailbox(10)
    refused: list[Any] = []
    mailbox.put(Envelope(1))
    mailbox.put(Envelope(2))
    mailbox.close(lambda envelope: refused.append(envelope.message))
    mailbox.put(Envelope(3))
    await trio.to_thread.run_sync(mailbox.put, Envelope(4))
    await trio.testing.wait_all_tasks_blocked()
    assert refused == [1, 2, 3, 4]
    assert mailbox.empty()


async def test_an_idle_mailbox_holds_no_queue() -> None:
    mailbox = Mailbox(10)
    messages: list[Any] = []
    async with trio.open_nursery() as nursery:
        assert mailbox._envelopes is None
        mailbox.put(Envelope(1))
        await mailbox.receive()
        nursery.start_soon(receive_into, mailbox, messages)
        await trio.testing.wait_all_tasks_blocked()
        assert mailbox._envelopes is None
        mailbox.put(Envelope(2))


def test_answers_tell_whether_anybody_was_waiting() -> None:
    for future in (TrioFuture[Any](), pykka.ThreadingFuture[Any]()):
        envelope = Envelope("message", reply_to=future)
        assert answer(envelope, 1)
        assert not answer(envelope, 2)
        assert not answer_error(envelope, KeyError())
        assert future.get() == 1
    assert not answer(Envelope("told"), 1)
    assert not answer_error(Envelope("told"), KeyError())
