"""The command line of a demo that tells a story on a store and returns its outcome."""

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import trio


def tell(
    name: str, description: str | None, main: Callable[[Path], Awaitable[dict[str, Any]]], argv: Sequence[str]
) -> int:
    """Run `main` on a store in a folder, a temporary one unless one is named; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"eventsrc demo {name}", description=description)
    parser.add_argument("--store", type=Path, help="keep the store in this folder (default: a temporary one)")
    parser.add_argument("--json", action="store_true", help="print what came of it; the story goes to standard error")
    options = parser.parse_args(argv)
    story = sys.stderr if options.json else sys.stdout
    with tempfile.TemporaryDirectory(prefix=f"eventsrc-{name}-") as folder, contextlib.redirect_stdout(story):
        found = trio.run(main, options.store or Path(folder, f"{name}.db"))
    if options.json:
        print(json.dumps(found))
    return 0
