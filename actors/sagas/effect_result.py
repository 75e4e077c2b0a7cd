"""The result of an effect: it is stored as plain data, and comes back when the step is run again."""

from typing import Any

from ..errors import DecodingError, DefinitionError, EncodingError, SchemaError
from ..serialization.came_back import is_changed, is_same_data
from ..serialization.personal import check_personal, has_personal_data
from ..serialization.serializer import Serializer
from ..serialization.unsealed import check_nothing_personal
from .plain_data import plain_data


class EffectResult:
    """Encodes and decodes what one effect returns: objects of the type `returns`, or plain data if that is None.

    Raises `DefinitionError` for a type that cannot be stored, or whose personal data would not be sealed.
    """

    def __init__(self, effect: str, returns: type[Any] | None, serializer: Serializer) -> None:
        self._effect = effect
        self._returns = returns
        self._serializer = serializer
        if returns is None:
            return
        if has_personal_data(returns):
            raise DefinitionError(
                f"The effect {effect!r} returns {_name(returns)}, which has personal data, and what effects return is "
                "not sealed: have it return the rest, or a key to it."
            )
        try:
            check_personal(returns)
        except SchemaError as error:
            raise DefinitionError(f"What the effect {effect!r} returns would not be sealed: {error}") from error
        try:
            self._unstructure, self._structure = serializer.plain_functions(returns)
        except Exception as error:
            raise DefinitionError(f"What the effect {effect!r} returns cannot be turned into data: {error}") from error

    def encode(self, result: Any) -> tuple[Any, Any]:
        """Return (the result as plain data, the result as it is read again). Raises `EncodingError` if they differ."""
        subject = f"The effect {self._effect!r} returned what"
        if self._returns is None:
            try:
                plain = plain_data(result, subject)
            except EncodingError as error:
                raise EncodingError(f"{error}. Say what type it is: ctx.effect(..., returns=...)") from error
            return plain, plain
        # Checked on the object as well, since a type such as `dict[str, Any]` does not tell.
        check_nothing_personal(result)
        try:
            plain = plain_data(self._unstructure(result), subject)
            again = self._structure(plain, self._returns)
            is_same = again == result or (
                is_same_data(plain_data(self._unstructure(again), subject), plain)
                and not is_changed(result, again, self._returns)
            )
        except EncodingError:
            raise
        except Exception as error:
            raise EncodingError(f"{subject} is no {_name(self._returns)}: {error}") from error
        if not is_same:
            raise EncodingError(f"{subject} would come back as {again!r:.200} instead of {result!r:.200}")
        return plain, again

    def decode(self, plain: Any) -> Any:
        """The stored result as an object. Raises `DecodingError`."""
        if self._returns is None:
            return plain
        try:
            return self._structure(plain, self._returns)
        except Exception as error:
            raise DecodingError(
                f"What the effect {self._effect!r} returned before does not fit {_name(self._returns)}: "
                f"{self._serializer.explain(plain, self._returns, error)}"
            ) from error


def _name(returns: Any) -> str:
    return returns.__name__ if isinstance(returns, type) else str(returns)
