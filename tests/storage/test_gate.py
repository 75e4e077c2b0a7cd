"""The gate of an environment: readers and those who need it to themselves never wait for ever."""

import threading
import time
from collections.abc import Callable

from eventsrc.storage.environment.gate import Gate

WAIT_SECONDS = 10
MOMENT_SECONDS = 0.03
"""In which a thread comes to wait."""


def started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    time.sleep(MOMENT_SECONDS)
    return thread


def test_several_who_need_to_be_alone_are_so_one_after_the_other_and_before_new_readers() -> None:
    gate, done = Gate(), list[str]()

    def be_alone() -> None:
        with gate.alone():
            done.append("alone")

    def read() -> None:
        gate.enter()
        done.append("read")
        time.sleep(MOMENT_SECONDS)
        gate.leave()

    gate.enter()
    threads = [started(work) for work in (be_alone, read, be_alone)]
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
    thread = started(read_long)
    assert not done
    gate.cleared()
    thread.join(WAIT_SECONDS)
    assert done == ["begun"]
