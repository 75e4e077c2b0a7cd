"""Subjects: the people whom personal data are about, and the event that says that a subject was forgotten."""

from typing import Final

from .messages import own_event, stored_name


@own_event("eventsrc.subject_forgotten", kind="deleted")
class SubjectForgotten:
    """The keys of a subject were destroyed: what was stored about the subject before this event is unreadable for good.

    A projection that handles this event, `@on(SubjectForgotten)`, must remove the subject's rows itself; their bytes
    stay in its file until the projection is rebuilt. Every other projection that takes events with personal data is
    rebuilt. A sink must remove its own copies. If the subject comes back, data stored after this event are not
    forgotten.
    """

    subject: str
    """The subject's id, as the personal fields name it."""


SUBJECT_FORGOTTEN: Final = stored_name(SubjectForgotten)
