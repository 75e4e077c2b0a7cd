"""`eventsrc forget`, done by the store's running runtime or by this process, and `eventsrc keys`, which copies keys."""

import argparse
from contextlib import closing
from pathlib import Path

import attrs
import trio

from ..arguments import check_subject
from ..forgetting import Forgotten
from ..runtime import Runtime
from .argument_types import AddCommand
from .control_boards import ask_writer, check_store
from .domain_modules import add_keys, keys_in
from .output import print_rows


def run_forget(options: argparse.Namespace) -> int:
    """`eventsrc forget PATH SUBJECT`."""
    check_store(options.path)
    check_subject(options.subject)
    asked = ask_writer(options, "forget", options.subject, "even in sagas" if options.even_in_sagas else "")
    if asked is not None:
        return asked
    forgotten = trio.run(_forget, options)
    print_rows([attrs.asdict(forgotten) if options.json else _row(forgotten)], as_json=options.json)
    return 0


def _row(forgotten: Forgotten) -> dict[str, object]:
    return attrs.asdict(forgotten) | {"streams": len(forgotten.streams)}


async def _forget(options: argparse.Namespace) -> Forgotten:
    async with Runtime.open(options.path, keys=options.keys) as runtime:
        return await runtime.forget(options.subject, even_in_sagas=options.even_in_sagas)


def copy_keys(options: argparse.Namespace) -> int:
    """`eventsrc keys PATH DESTINATION`."""
    with closing(keys_in(options, options.keys)) as keys:
        keys.copy_to(Path(options.destination))
        facts = {"keys": keys.path, "copy": options.destination}
    print_rows([facts], as_json=options.json)
    return 0


def add_commands(add: AddCommand) -> None:
    """Add these commands to the command line."""
    forgetting = add("forget", "destroy the keys of a subject, so that nobody can read its personal data any more")
    forgetting.add_argument("subject", metavar="SUBJECT", help="its id, as the personal fields name it")
    forgetting.add_argument(
        "--even-in-sagas", action="store_true", help="also what sagas hold that have not ended; they go on without"
    )
    add_keys(forgetting)
    forgetting.set_defaults(run=run_forget)

    keys = add("keys", "copy the keys of personal data, in the place of an older copy; they may be in use")
    keys.add_argument("destination", metavar="DESTINATION", help="the file to be written")
    add_keys(keys)
    keys.set_defaults(run=copy_keys)
