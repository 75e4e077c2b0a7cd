"""How a runtime is to work, as it is given to `Runtime.open`."""

from collections.abc import Callable

import cattrs

from ..storage.limits import Limits
from .arguments import check_converter, check_limits, check_wall_clock


def check_settings(limits: Limits, converter: cattrs.Converter | None, wall_clock: Callable[[], int]) -> None:
    """Raise `ArgumentInvalid` for a setting of a wrong kind."""
    check_limits(limits)
    check_converter(converter)
    check_wall_clock(wall_clock)
