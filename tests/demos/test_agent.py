"""The demo of an agent shows what it says."""

import json
from pathlib import Path

import pytest

from eventsrc.demos import agent
from eventsrc.runtime import command_line

ENDED = {
    "lines": [
        "ann: Lisbon, in a castle",
        "agent: sorry, that could not be booked",
        "ann: Lisbon, in a hostel",
        "agent: booked: flight and hostel",
    ],
    "left": 160,
    "ledger": [
        "asked the model",
        "booked the flight",
        "cancelled the flight",
        "asked the model",
        "booked the flight",
        "booked the hostel",
    ],
}


def test_a_run_goes_on_in_another_process_is_undone_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert agent.run([]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("the first process was killed when the flight was booked")
    assert "Lisbon, in a castle: compensated (SoldOut: castle)\n" in printed
    assert "Lisbon, in a hostel: completed\n" in printed
    caused = printed[printed.index("all that the first wish has led to") :]
    rows = [line.split(maxsplit=3) for line in caused.splitlines()[2:]]
    assert [int(row[0]) for row in rows] == list(range(1, 30)), "of two processes, and nothing of the second wish"
    assert "amount=380" in caused
    assert "amount=-380" in caused
    assert "hostel" not in caused


def test_on_the_same_store_again_nothing_is_done_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for is_first in (True, False):
        assert agent.run(["--folder", str(tmp_path / "kept"), "--json"]) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out) == ENDED
        assert ("was killed" in printed.err) == is_first


def test_a_folder_that_cannot_be_used_is_told_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SystemExit):
        agent.run(["--folder", str(file)])
    assert capfd.readouterr().err.endswith(f"error: --folder: {file} cannot be made: File exists; name another one\n")

    (tmp_path / "agent.db").mkdir()
    (tmp_path / "agent.db" / "data.mdb").write_text("no store")
    assert command_line.main(["demo", "agent", "--folder", str(tmp_path)]) == 1
    printed = capfd.readouterr()
    assert printed.out == "", "no process was killed"
    assert printed.err.startswith(f"eventsrc: {tmp_path / 'agent.db'} holds no LMDB data")
    assert printed.err.count("\n") == 1
