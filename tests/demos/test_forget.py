"""The demo of forgetting shows what it says."""

import json
from pathlib import Path

import pytest

from eventsrc.demos import forget

LEFT = ["(forgotten)", "done, anything else?", "I am here, too"]


def test_what_a_person_said_is_nowhere_once_they_are_forgotten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for is_first in (True, False):
        assert forget.run(["--store", str(tmp_path / "chat.db"), "--json"]) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out) == {"lines": LEFT, "backup": LEFT, "files": []}
        assert ("sealed: 'refund me, my card ends in 4242'" in printed.err) == is_first
        assert "files with it as it was said: none" in printed.err
        assert "the backup from before: '(forgotten)', and still 'I am here, too'" in printed.err


def test_it_tells_its_story_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert forget.run([]) == 0
    printed = capsys.readouterr().out
    assert "views/transcript/1/rows/data.mdb (a view, nothing else)" in printed
    assert "forgotten: 1 event in conversation-42" in printed
    assert "  person-1: (forgotten)\n  agent: done, anything else?\n" in printed
