"""Where the options of a command may stand."""

from argparse import Namespace

import pytest

from eventsrc.runtime.commands.command_parser import CommandParser


def parsed(arguments: str) -> Namespace:
    parser = CommandParser(prog="eventsrc steer")
    parser.add_argument("path")
    parser.add_argument("action", nargs="?")
    parser.add_argument("version", nargs="?", type=int)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--reason")
    return parser.parse_args(arguments.split())


@pytest.mark.parametrize(
    "arguments",
    [
        "--json --reason none bank.db pause -5",
        "bank.db --json pause --reason none -5",
        "bank.db pause --reason=none --json -5",
        "bank.db pause --rea none -5 --js",
    ],
)
def test_options_stand_anywhere(arguments: str) -> None:
    assert parsed(arguments) == Namespace(path="bank.db", action="pause", version=-5, json=True, reason="none")


def test_what_follows_two_dashes_is_no_option() -> None:
    assert parsed("--json -- bank.db --reason 3") == Namespace(
        path="bank.db", action="--reason", version=3, json=True, reason=None
    )
    assert parsed("-").path == "-"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("bank.db pause --reason", "argument --reason: expected one argument"),
        ("bank.db --reason --json", "argument --reason: expected one argument"),
        ("bank.db --nothing pause", "unrecognized arguments: --nothing"),
        ("bank.db --json pause 1 2", "unrecognized arguments: 2"),
        ("--json", "the following arguments are required: path"),
    ],
)
def test_what_does_not_fit_is_said(arguments: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(arguments)
    assert words in capsys.readouterr().err
