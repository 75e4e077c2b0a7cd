"""Loads the domain's classes and the keys of personal data for a command: `--import MODULE`, `--keys FILE`."""

import argparse
import importlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import attrs
import cattrs

from ...actors.aggregates.aggregate import Aggregate
from ...actors.aggregates.aggregate_type import AggregateType
from ...actors.errors import DefinitionError
from ...actors.serialization.serializer import Serializer
from ...storage.errors import described
from ...storage.keys.subject_keys import SubjectKeys
from ...storage.names import aggregate_id_of, category_of
from ..opening import KEYS_SUFFIX, keys_of


@attrs.frozen
class Domain:
    """The contents of a domain's modules: the aggregate classes, and the converter with hooks for their fields."""

    aggregates: list[type[Aggregate]]
    converter: cattrs.Converter | None


def domain_in(modules: Sequence[str]) -> Domain:
    """The domain in these modules, which may be in the current folder.

    Raises `DefinitionError` for a module that cannot be imported, and where the modules hold several converters.
    """
    aggregates: dict[type[Aggregate], None] = {}
    converters: dict[int, tuple[str, cattrs.Converter]] = {}
    sys.path.insert(0, "")
    try:
        for name in modules:
            try:
                module = importlib.import_module(name)
            except Exception as error:
                reason = str(error) if isinstance(error, ImportError) else described(error)
                raise DefinitionError(f"The module {name!r} cannot be imported: {reason.rstrip('.')}.") from error
            for variable, value in vars(module).items():
                is_aggregate = inspect.isclass(value) and issubclass(value, Aggregate) and value is not Aggregate
                if is_aggregate and not inspect.isabstract(value):
                    aggregates[value] = None
                elif isinstance(value, cattrs.Converter):
                    converters.setdefault(id(value), (f"{name}.{variable}", value))
    finally:
        sys.path.remove("")
    if len(converters) > 1:
        named = ", ".join(variable for variable, _ in converters.values())
        raise DefinitionError(f"There is more than one converter in {', '.join(modules)}: {named}. Leave one of them.")
    return Domain(list(aggregates), next((converter for _, converter in converters.values()), None))


def add_import(
    parser: argparse.ArgumentParser, help_text: str = "the domain's classes", *, required: bool = False
) -> None:
    """Add `--import` and `--keys`."""
    parser.add_argument(
        "--import", action="append", dest="modules", required=required, default=[], metavar="MODULE", help=help_text
    )
    add_keys(parser)


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Add `--keys` alone."""
    parser.add_argument("--keys", metavar="FILE", help="the keys of personal data; by default PATH.keys")


def keys_in(options: argparse.Namespace, path: str | Path | None) -> SubjectKeys:
    """The keys at `path`, or those of the command's store, opened for reading."""
    keys = keys_of(options.path, path, "reader")
    assert keys is not None, "a path has a place for keys"
    return keys


@contextmanager
def aggregate_of(
    stream: str, options: argparse.Namespace, path: str | None = None
) -> Iterator[tuple[AggregateType, str]]:
    """The type and id of the aggregate that a stream belongs to, among the classes of the modules in the options.

    Its personal data are read by the keys of the command's store. `path` names another store, whose own keys are used
    where it has any: a fork has keys of its own only once a runtime has written to it.

    Raises `DefinitionError` where no class has the stream's category.
    """
    modules: Sequence[str] = options.modules
    category = category_of(stream)
    domain = domain_in(modules)
    known = {each.__eventsrc_definition__.category: each for each in domain.aggregates}
    if category not in known:
        raise DefinitionError(
            f"No aggregate of the category {category!r} is in {', '.join(modules)}; there is "
            f"{', '.join(sorted(known)) or 'none'}."
        )
    own = None if path is None else Path(f"{path}{KEYS_SUFFIX}")
    with closing(keys_in(options, own if own is not None and own.exists() else options.keys)) as keys:
        yield AggregateType(known[category], Serializer(domain.converter, keys)), aggregate_id_of(stream)
