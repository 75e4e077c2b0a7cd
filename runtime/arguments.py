"""Checks the arguments of a command before the command is sent, so that a mistake takes no effect."""

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from ..actors.errors import IdempotencyKeyInvalid
from ..storage.commit import Expected, ExpectedVersion
from ..storage.limits import Limits
from ..storage.record import UNIX_EPOCH
from .errors import ArgumentInvalid

PART_SEPARATOR: Final = "\x1f"
"""Precedes a command's number in the idempotency key that a transaction gives it; callers' keys must not contain it."""

T = TypeVar("T")
U = TypeVar("U")


def check_is_class(argument: str, given: object, known: Iterable[type]) -> None:
    """Raise `ArgumentInvalid` unless `given` is a class; the text names the one of `known` that may be meant."""
    if isinstance(given, type):
        return
    names = [each.__name__ for each in known]
    meant = given if given in names else type(given).__name__
    example = meant if meant in names else next(iter(names), "")
    raise ArgumentInvalid(argument, given, f"give the class itself{f', such as {example}' if example else ''}")


def checked_timeout(timeout: float | None, limits: Limits) -> float:
    """Seconds to wait: `timeout`, or `Limits.command_timeout_seconds` where it is None. Raises `ArgumentInvalid`."""
    check_timeout(timeout)
    return limits.command_timeout_seconds if timeout is None else timeout


def check_timeout(timeout: float | None) -> None:
    """Raise `ArgumentInvalid` unless `timeout` is None (the default) or a number of seconds, 0 or more."""
    if timeout is None:
        return
    is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not is_number or timeout != timeout or timeout < 0:
        raise ArgumentInvalid("timeout", timeout, "give it in seconds, 0 or more")
    if timeout > sys.float_info.max and timeout != math.inf:
        raise ArgumentInvalid("timeout", timeout, "it is more than a clock can count; math.inf is to wait for ever")


def check_text(argument: str, value: str) -> None:
    """Raise `ArgumentInvalid` unless `value` is a text that can be stored (valid Unicode)."""
    if not isinstance(value, str):
        raise ArgumentInvalid(argument, value, "give it as a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ArgumentInvalid(argument, value, f"it is not valid Unicode ({error.reason})") from error


def check_key(key: str, limits: Limits) -> None:
    """Check an idempotency key.

    Raises `ArgumentInvalid` unless the key is a text that is not empty and has no U+001F in it, and
    `IdempotencyKeyInvalid` for a key that is too long.
    """
    check_text("idempotency_key", key)
    if not key:
        raise ArgumentInvalid("idempotency_key", key, "it must not be empty; None is for a command without one")
    if PART_SEPARATOR in key:
        reason = "it has the control character U+001F, as the keys have that a transaction gives to its commands"
        raise ArgumentInvalid("idempotency_key", key, reason)
    size, bound = len(key.encode()), limits.idempotency_key_bytes_max
    if size > bound:
        raise IdempotencyKeyInvalid("Bytes in an idempotency key", size, bound, "Use a shorter one, a digest say.")


def check_correlation_id(correlation_id: str) -> None:
    """Raise `ArgumentInvalid` for what is no text, or an empty one."""
    check_text("correlation_id", correlation_id)
    if not correlation_id:
        raise ArgumentInvalid("correlation_id", "", "it must not be empty; None is that of what is being handled")


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Raise `ArgumentInvalid` unless `metadata` is a mapping with texts as keys; encoding checks its values."""
    if not isinstance(metadata, Mapping):
        raise ArgumentInvalid("metadata", metadata, 'give it as a mapping: {"principal": "ann"}')
    for name in metadata:
        if not isinstance(name, str):
            raise ArgumentInvalid("metadata", metadata, f"its names must be texts, and {name!r} is none")


def check_subject(subject: object) -> None:
    """Raise `ArgumentInvalid` unless `subject` is a text that is not empty and is valid Unicode."""
    advice = "give its id, a text: the one that the personal fields name"
    if not (isinstance(subject, str) and subject):
        raise ArgumentInvalid("subject", subject, advice)
    try:
        subject.encode()
    except UnicodeEncodeError as error:
        raise ArgumentInvalid("subject", subject, f"{advice}. This one is not valid Unicode") from error


def check_expected_version(expected: ExpectedVersion, argument: str = "expected_version") -> None:
    """Raise `ArgumentInvalid` unless `expected` is a whole number, 0 or more, or an `Expected`."""
    is_number = isinstance(expected, int) and not isinstance(expected, bool) and expected >= 0
    if not (is_number or isinstance(expected, Expected)):
        raise ArgumentInvalid(argument, expected, "give a number, or ANY, NO_STREAM or STREAM_EXISTS")


def checked_whole(name: str, value: object) -> int:
    """Return `value`. Raises `ArgumentInvalid` unless it is a whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArgumentInvalid(name, value, "give a whole number")
    return value


def check_count(name: str, value: object, *, least: int) -> None:
    """Raise `ArgumentInvalid` unless `value` is a whole number and at least `least`."""
    if checked_whole(name, value) < least:
        raise ArgumentInvalid(name, value, f"it must be {least} or more")


def checked_time_ns(name: str, time: object) -> int:
    """UTC nanoseconds of `time`, to the microsecond. Raises `ArgumentInvalid` unless it is a datetime with a zone."""
    if not isinstance(time, datetime):
        raise ArgumentInvalid(name, time, "give a datetime with a time zone")
    if time.tzinfo is None:
        raise ArgumentInvalid(name, time, "it has no time zone: write datetime(..., tzinfo=UTC), or time.astimezone()")
    return (time - UNIX_EPOCH) // timedelta(microseconds=1) * 1_000


def checked_triples(name: str, given: Sequence[tuple[T, str, U]]) -> Sequence[tuple[T, str, U]]:
    """Return `given`. Raises `ArgumentInvalid` unless it is a list of tuples: (class, id, value)."""
    for each in given if isinstance(given, Sequence) else (given,):
        if not (isinstance(each, tuple) and len(each) == 3):
            raise ArgumentInvalid(name, each, "give a list of tuples, each with a class, an id and what is for it")
    return given
