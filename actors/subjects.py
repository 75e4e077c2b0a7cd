"""Subjects: the people that personal data are about, and what the log says when one of them was forgotten."""

from typing import Final

from .messages import own_event, stored_name


@own_event("eventsrc.subject_forgotten", kind="deleted")
class SubjectForgotten:
    """The keys of a subject were destroyed: nobody can read any more what was stored about it before this event.

    A projection that takes it, `@on(SubjectForgotten)`, removes the subject's rows itself, whose bytes stay in its file
    until it is rebuilt; every other one that takes events with personal data is built anew. A sink that has copied
    something removes it there. Of a subject that came back, what was stored since is not forgotten.
    """

    subject: str
    """Its id, as the personal fields name it."""


SUBJECT_FORGOTTEN: Final = stored_name(SubjectForgotten)
