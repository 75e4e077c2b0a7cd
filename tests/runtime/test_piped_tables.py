"""What the commands print where no terminal is: a line for each row, however long it is."""

from pathlib import Path

import pytest
import trio

from eventsrc import Aggregate, Limits, Runtime, applies, command, event, handles
from eventsrc.runtime.command_line import main

LONG_ID = "long" * 100
LONG_TEXT = "a word, " * 100


@command
class Write:
    text: str


@event("page.written")
class Written:
    text: str


class Page(Aggregate):
    text: str = ""

    @handles
    def write(self, command: Write) -> Written:
        return Written(command.text)

    @applies
    def written(self, event: Written) -> None:
        self.text = event.text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    async def fill() -> None:
        limits = Limits(snapshot_every_events=1)
        async with Runtime.open(tmp_path / "store", aggregates=[Page], limits=limits) as runtime:
            for name in (LONG_ID, "日本"):
                await runtime.actor(Page, name).ask(Write(LONG_TEXT))

    trio.run(fill)
    return tmp_path / "store"


def test_each_row_is_a_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def lines(*arguments: object) -> list[str]:
        assert main([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().out.splitlines()

    long, short = f"page-{LONG_ID}", "page-日本"
    gap = " " * (len(long) - len("stream"))
    assert lines("streams", path) == [
        f"stream{gap}  version  position",
        f"{long}        1         1",
        f"{short}{gap[3:]}        1         2",
    ]
    head, snapshot, state, columns, row = lines("show", path, long, "--import", __name__)
    assert head == f"{long}: version 1 of 1"
    assert snapshot == f'snapshot at version 1: {{"text":"{LONG_TEXT}"}}'
    assert state == f'state: {{"text":"{LONG_TEXT}"}}'
    assert columns.split() == ["version", "position", "time", "type", "payload"]
    assert row.endswith(f'page.written  {{"text":"{LONG_TEXT}"}}')
    columns, row = lines("blame", path, long, "--import", __name__)
    assert row.startswith(f'text   "{LONG_TEXT}"        1         1  page.written')
    assert columns.endswith("correlation")
