"""Aggregates that are busy: full mailboxes, timeouts, callers that give up, no room for another.

A handler takes 100 seconds here, of a clock that is moved by hand: one that jumps would not wait for the disk.
"""

from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from bank_domain import Grow, Slow, Wait

from eventsrc import CommandTimeout, Limits, MailboxFull, ResidencyFull, Runtime
from eventsrc.storage.store import EventStore

Store = EventStore | Path
HANDLING_SECONDS = 100
PATIENT = Limits(command_timeout_seconds=1e6, mailbox_commands_max=3, resident_actors_max=2)


async def test_a_full_mailbox(store: Store, mock_clock: trio.testing.MockClock) -> None:
    async with Runtime.open(store, aggregates=[Slow], limits=PATIENT) as runtime:
        slow = runtime.actor(Slow, "s")
        await slow.ask(Grow(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow.ask, Wait())
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(3):
                nursery.start_soon(slow.ask, Grow(1))
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(MailboxFull, match=r"3 messages are waiting.*Limits.mailbox_commands_max"):
                await slow.ask(Grow(1))
            assert (await runtime.actor(Slow, "other").ask(Grow(1))).version == 1
            mock_clock.jump(HANDLING_SECONDS)
        assert (await slow.state()).done == 5, "those that were taken took effect"


async def test_a_timeout_tells_whether_the_command_may_still_take_effect(
    store: Store, mock_clock: trio.testing.MockClock
) -> None:
    async with Runtime.open(store, aggregates=[Slow], limits=Limits(command_timeout_seconds=5)) as runtime:
        slow = runtime.actor(Slow, "s")
        await slow.ask(Grow(1))

        async def ask(command: object, *, may_take_effect: bool, words: str) -> None:
            with pytest.raises(CommandTimeout, match=words) as caught:
                await slow.ask(command)
            assert caught.value.may_take_effect == may_take_effect

        async with trio.open_nursery() as nursery:
            begun = partial(ask, Wait(), may_take_effect=True, words=r"in 5 seconds.*may still take effect")
            nursery.start_soon(begun)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(partial(ask, Grow(1), may_take_effect=False, words="will not take effect"))
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(5)
        mock_clock.jump(HANDLING_SECONDS)
        assert (await slow.state()).done == 2, "the one that was begun took effect, the other did not"


async def test_a_cancelled_caller_withdraws_what_was_not_begun(
    store: Store, mock_clock: trio.testing.MockClock
) -> None:
    async with Runtime.open(store, aggregates=[Slow], limits=PATIENT) as runtime:
        slow = runtime.actor(Slow, "s")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow.ask, Wait())
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(slow.ask, Grow(1))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        mock_clock.jump(HANDLING_SECONDS)
        assert (await slow.state()).done == 1


async def test_every_resident_actor_busy(store: Store, mock_clock: trio.testing.MockClock) -> None:
    async with Runtime.open(store, aggregates=[Slow], limits=PATIENT) as runtime:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.actor(Slow, "a").ask, Wait())
            nursery.start_soon(runtime.actor(Slow, "b").ask, Wait())
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(ResidencyFull, match="resident_actors_max = 2"):
                await runtime.actor(Slow, "c").ask(Grow(1))
            mock_clock.jump(HANDLING_SECONDS)
        assert (await runtime.actor(Slow, "c").ask(Grow(1))).version == 1
