"""The domain's classes for the command line: `--import MODULE`."""

import importlib
import inspect
import sys
from collections.abc import Sequence

from ..actors.aggregate import Aggregate
from ..actors.errors import DefinitionError


def aggregates_in(modules: Sequence[str]) -> list[type[Aggregate]]:
    """The aggregate classes in these modules, which may be in the current folder.

    Raises `DefinitionError` for a module that cannot be imported.
    """
    found: dict[type[Aggregate], None] = {}
    sys.path.insert(0, "")
    try:
        for name in modules:
            try:
                module = importlib.import_module(name)
            except ImportError as error:
                raise DefinitionError(f"The module {name!r} cannot be imported: {error}.") from error
            for value in vars(module).values():
                if inspect.isclass(value) and issubclass(value, Aggregate) and value is not Aggregate:
                    found[value] = None
    finally:
        sys.path.remove("")
    return list(found)
