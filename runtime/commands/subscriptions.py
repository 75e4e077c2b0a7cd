"""`eventsrc subscriptions PATH`: lists and steers subscriptions, whether or not a runtime has the store open."""

import argparse
from collections.abc import Iterator
from typing import Any

from ...storage.control.board import ControlBoard, SubscriptionAction
from ..errors import UnknownSubscription
from .argument_types import AddCommand
from .control_boards import Place, add_actions, ask_runtime, places, print_answers
from .output import format_time, print_rows


def steer_subscriptions(options: argparse.Namespace) -> int:
    """`eventsrc subscriptions PATH [ACTION] [NAME]`."""
    with places(options.path) as found:
        if options.action is None:
            print_rows([row for place in found for row in _subscription_rows(place)], as_json=options.json)
            return 0
        concerned = [place for place in found if options.name in (None, *place.board.subscriptions())]
        if options.action == "parked" and concerned:
            print_rows([row for place in concerned for row in _parked_rows(place, options.name)], as_json=options.json)
            return 0
        if not concerned:
            known = sorted({name for place in found for name in place.board.subscriptions()})
            raise UnknownSubscription(options.name or "", known)
        answers = [
            _steer_subscription(place.board, options.action, options.name, options.stream or "") for place in concerned
        ]
    return print_answers(concerned, answers, options)


def _subscription_rows(place: Place) -> Iterator[dict[str, Any]]:
    for name, progress in sorted(place.board.subscriptions().items()):
        yield {
            "subscription": name,
            "at": place.name,
            "position": progress.done_through,
            "read_through": progress.position,
            "streams_behind": len(progress.pending),
            "parked": len(place.board.parked(name)),
        }


def _parked_rows(place: Place, name: str | None) -> Iterator[dict[str, Any]]:
    for event in place.board.parked(name):
        yield {
            "subscription": event.subscription,
            "at": place.name,
            "position": event.position,
            "stream": event.stream,
            "attempts": event.attempts,
            "time": format_time(event.time_ns),
            "error": event.error or "comes after a parked event of its stream",
        }


def _steer_subscription(board: ControlBoard, action: SubscriptionAction, name: str, stream: str) -> tuple[str, bool]:
    if stream and all(event.stream != stream for event in board.parked(name)):
        return f"no event of the stream {stream!r} is parked in {name}", False
    if board.has_runtime:
        return ask_runtime(board, action, name, stream)
    if action == "delete":
        board.delete(name)
        return f"{name} is deleted", True
    board.request("retry", name, stream)
    return f"{name} will be handed its parked events when it is consumed next", True


def add_commands(add: AddCommand) -> None:
    """Add the command to the command line."""
    subscriptions = add("subscriptions", "list the durable subscriptions, or steer one")
    add_actions(
        subscriptions,
        {
            "parked": "list the events that were parked, with the error",
            "retry": "hand out again what is parked",
            "delete": "forget it, its progress and what is parked",
        },
        unnamed=("parked",),
    )
    subscriptions.add_argument("--stream", help="retry: only what is parked of this stream")
    subscriptions.set_defaults(run=steer_subscriptions)
