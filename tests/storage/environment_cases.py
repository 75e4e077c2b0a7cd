"""What the tests of opening, damage and room share."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence

from eventsrc import (
    ANY,
    EventLog,
    StoredEvent,
)
from eventsrc.storage.commit import NewEvent, StreamAppend
from eventsrc.storage.contract import appended, commit
from eventsrc.storage.reader import LogReader

IS_ROOT = os.geteuid() == 0
NOBODY = 65_534


def fill(log: EventLog, count: int, *, size_bytes: int = 10, first: int | None = None) -> None:
    start = log.last_commit_id + 1 if first is None else first
    for number in range(start, start + count):
        event = NewEvent("thing.happened", {"text": "x" * size_bytes})
        appended(log.append([commit(number, StreamAppend(f"a-{number % 3}", ANY, [event]))])[0])


def every_event(log: LogReader) -> list[StoredEvent]:
    return log.read(limit=1_000_000)


def run_python(
    code: str, *arguments: object, user: int | None = None, flags: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own; what it does to itself cannot harm this one."""
    # A user without rights to anything still needs the packages, whose folder it may not be allowed to see.
    prelude = "" if user is None else f"import os; os.setgroups([]); os.setgid({user}); os.setuid({user})\n"
    imports = (
        "import sys, os\n"
        "from eventsrc import EventLog, EventSourcingError, ANY\n"
        "from eventsrc.storage.commit import Commit, NewEvent, StreamAppend\n"
        "from eventsrc.storage.reader import LogReader\n"
        "from eventsrc.storage.verification.verify import verify\n"
        "import json, encodings.idna, lmdb.verify\n"
        "def one(number, text=''):\n"
        "    return Commit(number, 1, [StreamAppend('a-1', ANY, [NewEvent('t', {'text': text})])])\n"
    )
    return subprocess.run(
        [sys.executable, *flags, "-c", imports + prelude + textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"},
    )


OPEN_AND_TELL = """
    try:
        log = EventLog(sys.argv[1])
    except EventSourcingError as error:
        print(type(error).__name__, error)
    else:
        print("opened", log.last_position)
        log.close()
"""
