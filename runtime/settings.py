"""How a runtime is to work, as it is given to `Runtime.open`."""

import inspect
from collections.abc import Callable

import cattrs

from ..storage.errors import described
from ..storage.limits import Limits
from .errors import ArgumentInvalid


def check_settings(limits: Limits, converter: cattrs.Converter | None, wall_clock: Callable[[], int]) -> None:
    """Raise `ArgumentInvalid` for a setting of a wrong kind."""
    _check_limits(limits)
    check_converter(converter)
    _check_wall_clock(wall_clock)


def _check_limits(limits: object) -> None:
    """Raise `ArgumentInvalid` unless `limits` is a `Limits`."""
    if not isinstance(limits, Limits):
        raise ArgumentInvalid("limits", limits, "give Limits(...)")


def check_converter(converter: object) -> None:
    """Raise `ArgumentInvalid` unless `converter` is None (the default) or a cattrs converter."""
    if not isinstance(converter, cattrs.Converter | None):
        raise ArgumentInvalid("converter", converter, "give a cattrs.Converter, such as make_converter() makes")


def _check_wall_clock(wall_clock: Callable[[], int]) -> None:
    """Raise `ArgumentInvalid` unless `wall_clock` gives a whole number when it is called."""
    advice = "give a function that returns UTC nanoseconds as a whole number, such as time.time_ns"
    if not callable(wall_clock) or isinstance(wall_clock, type) or inspect.iscoroutinefunction(wall_clock):
        raise ArgumentInvalid("wall_clock", wall_clock, advice)
    try:
        now = wall_clock()
    except Exception as error:
        raise ArgumentInvalid("wall_clock", wall_clock, f"it raised {described(error)}; {advice}") from error
    if isinstance(now, bool) or not isinstance(now, int):
        raise ArgumentInvalid("wall_clock", wall_clock, f"it returned {now!r:.100}; {advice}")
