"""The domains that the tests of the runtime use: an account, and an aggregate that takes its time."""

import trio

from eventsrc import Aggregate, Rejected, applies, command, event, handles


@command
class Deposit:
    amount: int


@command(idempotency_window_seconds=3600)
class Withdraw:
    amount: int


@command
class Break:
    """Makes the handler raise something that is no refusal."""


@command
class Touch:
    """Makes no event."""


@command
class Poison:
    """Makes an event that cannot be applied."""


@command
class ReturnNonsense:
    """Makes the handler return what is no event."""


@command
class Note:
    text: str


@event("account.deposited")
class Deposited:
    amount: int


@event("account.withdrawn")
class Withdrawn:
    amount: int


@event("account.poisoned")
class Poisoned:
    pass


@event("account.noted")
class Noted:
    text: str


class Account(Aggregate):
    balance: int = 0
    notes: int = 0

    @handles
    def deposit(self, command: Deposit) -> Deposited:
        if command.amount <= 0:
            raise Rejected("a deposit must be positive")
        return Deposited(command.amount)

    @handles
    def withdraw(self, command: Withdraw) -> list[Withdrawn]:
        if command.amount > self.balance:
            raise Rejected("the balance is too small")
        return [Withdrawn(command.amount)]

    @handles
    def break_it(self, command: Break) -> None:
        raise ZeroDivisionError("the handler's own fault")

    @handles
    def touch(self, command: Touch) -> None:
        return None

    @handles
    def poison(self, command: Poison) -> Poisoned:
        return Poisoned()

    @handles
    def nonsense(self, command: ReturnNonsense) -> None:
        return 42  # type: ignore[return-value]

    @handles
    def note(self, command: Note) -> Noted:
        return Noted(command.text)

    @applies
    def deposited(self, event: Deposited) -> None:
        self.balance += event.amount

    @applies
    def withdrawn(self, event: Withdrawn) -> None:
        self.balance -= event.amount

    @applies
    def poisoned(self, event: Poisoned) -> None:
        raise ValueError("cannot apply this")

    @applies
    def noted(self, event: Noted) -> None:
        self.notes += 1


@event("counter.grown")
class Grown:
    by: int


@command
class Grow:
    by: int


@command
class Wait:
    pass


@event("slow.done")
class Done:
    pass


class Slow(Aggregate):
    done: int = 0

    @handles
    async def wait(self, command: Wait) -> Done:
        await trio.sleep(100)
        return Done()

    @handles
    def quick(self, command: Grow) -> Done:
        return Done()

    @applies
    def finished(self, event: Done) -> None:
        self.done += 1
