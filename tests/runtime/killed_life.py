"""The life of a child process that is killed: what it has told until then."""

import subprocess
from collections.abc import Sequence


def told_until_killed(command: Sequence[str], line_count: int) -> list[str]:
    """Run a command until it has printed that many lines, and kill it; return every whole line that it printed."""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(line_count)]
        assert lines[-1], "it ended by itself"
        child.kill()
        lines += child.stdout.readlines()
    return [line.decode() for line in lines]
