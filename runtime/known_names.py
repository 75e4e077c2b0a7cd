"""Checks names against a store: the error for an unknown name lists similar ones."""

import difflib
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from typing import Final

from ..storage.query import find_streams
from ..storage.store import EventReader
from .errors import UnknownEventType, UnknownStream

STREAMS_COMPARED_MAX: Final = 10_000
"""The most streams that are searched for a similar name."""
NAMES_SHOWN_MAX: Final = 10


def check_stream(store: EventReader, stream: str) -> None:
    """Raise `UnknownStream` where the store has no stream of this name."""
    if store.head(stream) is None:
        names = (head.stream for head in islice(find_streams(store), STREAMS_COMPARED_MAX))
        raise UnknownStream(store.path, stream, _near(stream, names))


def check_types(store: EventReader, types: Iterable[str], of_classes: Collection[str] = ()) -> None:
    """Raise `UnknownEventType` for a stored type that neither an event nor a class has."""
    for name in types:
        if name not in of_classes and not store.read_type(name, limit=1):
            known = sorted({*store.names_in("types"), *of_classes})
            raise UnknownEventType(store.path, name, _near(name, known), known[:NAMES_SHOWN_MAX])


def _near(name: str, names: Iterable[str]) -> Sequence[str]:
    return difflib.get_close_matches(name, list(names), n=3, cutoff=0.7)
