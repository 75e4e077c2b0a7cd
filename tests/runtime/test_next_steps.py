"""What an error says last is what to do next."""

import pytest

from eventsrc import (
    AggregateUnavailable,
    CommandTimeout,
    EventSourcingError,
    SagaWaitsForItself,
    ShutdownTimeout,
    StepTimeout,
    ViewClosed,
    WaitTimeout,
)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (CommandTimeout("account-ann", "x", 5, may_take_effect=False), "send it again, or with a longer timeout"),
        (AggregateUnavailable("account-ann", 0.1, ValueError("x")), "for 0.10 seconds: ask again then"),
        (ShutdownTimeout(30, ["account-ann"]), r"send them again.*Limits\(shutdown_seconds=\.\.\.\)"),
        (ViewClosed("views.db"), "Close the place for views after its runtime"),
        (StepTimeout("pay", 60), r"Give it more, @step\(timeout_seconds=\.\.\.\)"),
        (WaitTimeout("account.deposited", 5), "catch WaitTimeout in the step"),
        (SagaWaitsForItself("saga_book-1"), "Wait outside of it"),
    ],
)
def test_an_error_ends_with_advice(error: EventSourcingError, words: str) -> None:
    with pytest.raises(type(error), match=words):
        raise error
