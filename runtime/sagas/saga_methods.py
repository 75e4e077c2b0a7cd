"""A program's use of sagas through a runtime: start them, signal them, and find them."""

from typing import Any, TypeVar

from ...actors.sagas.errors import UnknownSaga
from ...actors.sagas.history import SAGA_STATES, SagaState
from ...actors.sagas.instance import SagaInstance, SagaInstances
from ...actors.sagas.saga import Saga, saga_id
from ...storage.past import PastLog
from ..classes import check_class
from ..errors import ArgumentInvalid, RuntimeReadOnly
from ..opening import Opened, refusal
from ..projections.projections import Projections
from ..projections.view import Query, View
from ..router import Router
from ..trio_thread import check_on_trio
from .sagas import RUNS_NO_SAGAS, SagaRef, Sagas

S = TypeVar("S", bound=Saga)


class SagaMethods:
    """The part of `Runtime` that concerns sagas."""

    _store: Opened
    _projections: Projections
    _sagas: Sagas | None
    _router: Router

    async def start_saga(self, saga: S, *, key: str, deadline_seconds: float | None = None) -> SagaRef[S]:
        """Start a saga; returns once its start is on disk. A second saga of the class with the same key is not started.

        Args:
            saga: an object of a class that the runtime was opened with.
            key: unique among the sagas of the class; up to 240 bytes with `saga_NAME-` before it. Where a saga with the
                key was started before, whatever its state or its fields, `was_started` of the reference is False.
            deadline_seconds: the saga is compensated unless it completes in this time; the class's own unless given.

        Raises:
            UnknownSaga, StreamNameInvalid, DeadlinePassed, EncodingError, EventTooLarge: it was not started.
            MailboxFull, RuntimeClosed, StoreError: it was not started.
        """
        check_on_trio("runtime.start_saga")
        return await self._supervised.start(saga, key, deadline_seconds)

    def saga(self, saga_class: type[S], key: str) -> SagaRef[S]:
        """A reference to a saga, whether or not it was started.

        Raises `UnknownSaga` for a class that the runtime does not have, `StreamNameInvalid` for an invalid key.
        """
        return SagaRef(self._supervised, saga_id(self._supervised.class_of(saga_class), key))

    async def signal(self, saga_class: type[Saga], key: str, signal: str, payload: object = None) -> bool:
        """Send a saga a signal that `ctx.approval` waits for; see `SagaRef.signal`."""
        return await self.saga(saga_class, key).signal(signal, payload)

    def sagas(self, *, state: SagaState | None = None, saga: type[Saga] | None = None) -> Query[SagaInstance]:
        """The sagas in this state, of this class, as of now: `await runtime.sagas(state="parked").rows()`.

        A reader and a runtime of the past have them only if opened with `projections=[SagaInstances]`. Raises
        `ArgumentInvalid` for an unknown state, `DefinitionError` for a class that is no saga, `RuntimeReadOnly`.
        """
        if SagaInstances not in self._projections.all():
            self._supervised  # noqa: B018 (raises where there are none)
        if state is not None and state not in SAGA_STATES:
            raise ArgumentInvalid("state", state, f"it is one of {', '.join(SAGA_STATES)}")
        criteria: dict[str, Any] = {} if state is None else {"state": state}
        if saga is not None:
            check_class(saga, Saga)
            criteria["saga"] = saga.__eventsrc_saga__.name
        view = View(self._projections, self._projections.get(SagaInstances), SagaInstances.instances)
        return view.where(**criteria).fresh(at_least=self._store.last_position)

    @property
    def saga_counts(self) -> dict[str, int]:
        """How many sagas are "running", "ready" to run, and "waiting"."""
        return self._supervised.supervisor.counts

    @property
    def _supervised(self) -> Sagas:
        if isinstance(self._store, PastLog):
            raise refusal(self._store)
        if self._sagas is None and self._router.is_reader:
            raise RuntimeReadOnly(self._store.path, RUNS_NO_SAGAS)
        if self._sagas is None:
            raise UnknownSaga("The runtime was opened without sagas. Give their classes: Runtime.open(sagas=[...]).")
        return self._sagas
