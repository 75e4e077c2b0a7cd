"""The demo of an upgrade shows what it says."""

import json
from pathlib import Path

import pytest

from eventsrc.demos import upgrade

STORED = [
    [1, {"tool": "search", "cents": 40}],
    [1, {"tool": "browser", "cents": 125}],
    [2, {"tool": "search", "price": {"amount": 0.6, "currency": "EUR"}}],
]


def test_the_second_release_reads_what_the_first_one_stored_and_the_others_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert upgrade.run(["--store", str(tmp_path / "agents.db")]) == 0
    printed = capsys.readouterr().out
    assert "the first release stored 2 events" in printed
    assert "a careless one is refused: The event 'agent.spent' of 'agent-ada' at position 1 does not fit" in printed
    assert "stored as {'tool': 'search', 'cents': 40}\n    read as Spent(tool='search', price=Price(" in printed
    assert "ada spent 1.65 USD, 0.60 EUR" in printed
    assert "of dollars: browser 1.25, search 0.40" in printed
    assert "put back, the first one is refused: The event 'agent.spent' of 'agent-ada' at position 3" in printed
    assert "let in" not in printed


def test_on_the_same_store_again_it_goes_on_from_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for is_first in (True, False):
        assert upgrade.run(["--store", str(tmp_path / "agents.db"), "--json"]) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out) == {"spent": {"USD": 1.65, "EUR": 0.6}, "events": STORED}
        assert ("the first release stored" in printed.err) == is_first
