"""The gate of an environment: readers and those who need it to themselves never wait for ever."""

import threading
import time
from collections.abc import Callable, Sized

from eventsrc.storage.environment.gate import Gate

WAIT_SECONDS = 60


def waiting(work: Callable[[], None], gate: Gate) -> threading.Thread:
    """A thread that has come to wait at the gate."""
    before = len(waiters(gate))
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while len(waiters(gate)) == before:
        assert thread.is_alive(), "it does not wait"
        time.sleep(0.001)
    return thread


def waiters(gate: Gate) -> Sized:
    found: Sized = gate._condition._waiters  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    return found


def test_several_who_need_to_be_alone_are_so_one_after_the_other_and_before_new_readers() -> None:
    gate, done = Gate(), list[str]()

    def be_alone() -> None:
        with gate.alone():
            done.append("alone")

    def read() -> None:
        gate.enter()
        done.append("read")
        gate.leave()

    gate.enter()
    threads = [waiting(work, gate) for work in (be_alone, read, be_alone)]
    assert not done
    gate.leave()
    for thread in threads:
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive(), "it waits for ever"
    assert done == ["alone", "alone", "read"]


def test_a_long_read_waits_while_others_are_cleared_away_and_is_not_ended_itself() -> None:
    gate, done = Gate(), list[str]()

    def read_long() -> None:
        with gate.giving_way(lambda: done.append("ended")):
            done.append("begun")

    gate.clear()
    thread = waiting(read_long, gate)
    assert not done
    gate.cleared()
    thread.join(WAIT_SECONDS)
    assert done == ["begun"]
