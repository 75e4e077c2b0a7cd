"""Verifies the keys of subjects: their file must be sound and know the key of every sealed value."""

import re
from collections.abc import Iterator
from typing import Final

from ..keys.errors import SubjectKeysUnusable
from ..keys.subject_keys import KEY_ID_BYTES, KEY_TAG_PREFIX, SubjectKeys
from ..reader import LogReader
from .finding import Finding

KEYS: Final = "keys"
"""The `table` of findings about keys."""
KEY_TAG: Final = re.compile(f"{re.escape(KEY_TAG_PREFIX)}[0-9a-f]{{{2 * KEY_ID_BYTES}}}")


def key_tags_in(log: LogReader) -> list[str]:
    """The tags of the keys that the sealed values in a log need."""
    # A log written by other code, or by an older version, may have similar tags.
    return [tag for tag in log.names_in("tags", KEY_TAG_PREFIX) if KEY_TAG.fullmatch(tag)]


def check_keys(log: LogReader, keys: SubjectKeys) -> Iterator[Finding]:
    """Yield the faults of the keys of a log. A key that `forget` destroyed is still known to the file, and is no fault.

    The log may be in use: keys are stored before the values that they seal.
    """
    tags = key_tags_in(log)
    try:
        problem = keys.problem()
        if problem:
            yield Finding(KEYS, f"{keys.path} is damaged: {problem}. Put a copy of it in its place.")
            return
        for tag in tags:
            key_id = tag.removeprefix(KEY_TAG_PREFIX)
            if not keys.knows(bytes.fromhex(key_id)):
                (first,) = log.read_tag(tag, limit=1)
                problem = f"{keys.path} lacks the key {key_id}: it is another store's, or too old."
                yield Finding(KEYS, problem, first.stream, first.version, first.position)
    except SubjectKeysUnusable as error:
        yield Finding(KEYS, str(error), is_damage=not error.is_refused)
