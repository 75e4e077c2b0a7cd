"""Deleting an aggregate and using its id again: the commands and events that every aggregate has."""

from ..messages import command, own_event


@command
class Delete:
    """Ends an aggregate. Its history stays; further commands get `AggregateDeleted`."""

    reason: str = ""


@command
class Recreate:
    """Starts a deleted aggregate anew, from the state before its first event. Versions go on counting."""

    reason: str = ""


@own_event("eventsrc.deleted", kind="deleted")
class Deleted:
    """The aggregate was deleted."""

    reason: str


@own_event("eventsrc.recreated", kind="created")
class Recreated:
    """The id of a deleted aggregate is used again."""

    reason: str
