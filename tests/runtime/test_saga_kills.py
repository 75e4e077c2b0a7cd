"""A process that runs a saga is killed, at each append to its log in turn; the next one ends it with all or nothing."""

import signal
import sys
from pathlib import Path

import killed_purchase
import pytest
import trio


@pytest.mark.slow
@pytest.mark.parametrize(
    ("total", "ended"),
    [
        (10, ("completed", [89, 2], ["charge"])),
        (200, ("compensated", [100, 2], ["charge", "refund"])),
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_at_any_append_all_is_done_or_undone_and_each_effect_once(
    total: int, ended: tuple[str, list[int], list[str]], when: str, tmp_path: Path
) -> None:
    number, code = 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        number += 1
        store = tmp_path / f"store{number}"
        command = [sys.executable, killed_purchase.__file__, str(store), str(total), str(number), when]
        code = (await trio.run_process(command, check=False)).returncode
        assert await killed_purchase.to_its_end(store, total) == ended, f"killed {when} append {number}"
    assert code == 0
    assert number > 8
