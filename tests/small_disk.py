"""A small file system in memory, which can be filled up."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest


def mounted_at(at: Path) -> Iterator[Callable[[str], Path]]:
    """A small file system in memory, mounted with these options; needs root and a kernel that lets it."""
    at.mkdir()

    def mounted(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no right to mount a file system")
        return at

    yield mounted
    if at.is_mount():
        subprocess.run(["umount", "-l", str(at)], check=True)


def fill_up(disk: Path) -> Path:
    """Take all its room; returns the file that takes it."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4_096)):
            pass
    return ballast
