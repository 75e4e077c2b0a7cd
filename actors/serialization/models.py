"""Pydantic models and msgspec structs within events, states and rows: their own library turns them into data.

A type such as `anthropic.types.Message` can therefore be the type of a field. What a model does when it is validated is
done again when it is read. pydantic is imported only if the program has imported it.
"""

from collections.abc import Callable
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

import cattrs
import msgspec

from .model_types import is_pydantic_model, is_struct
from .partly_plain import structure_partly_plain
from .unsealed import check_nothing_personal

_PLAIN: Final = frozenset({bool, int, float, str, type(None)})
_CONVERTS: Final = "__eventsrc_converts__"
_to_json: Final = msgspec.json.Encoder().encode


def register_models(converter: cattrs.Converter) -> None:
    """Have a converter handle models, structs, and unions of models or structs with each other and with plain types."""
    converter.register_unstructure_hook_factory(is_pydantic_model, lambda _: _dumped)
    converter.register_structure_hook_factory(is_pydantic_model, lambda _: _validated)
    converter.register_structure_hook_factory(lambda hint: _is_union_of(is_pydantic_model, hint), _one_of_models)
    converter.register_unstructure_hook_factory(is_struct, _struct_dumped)
    converter.register_structure_hook_factory(is_struct, _struct_converted)
    converter.register_structure_hook_factory(lambda hint: _is_union_of(is_struct, hint), _one_of_structs)


def explanation_of(error: BaseException) -> str | None:
    """A model's or struct's explanation why data do not fit it; None for any other error."""
    if isinstance(error, msgspec.ValidationError):
        return str(error)
    if type(error).__module__.startswith("pydantic") and isinstance(error, ValueError) and hasattr(error, "errors"):
        faults = error.errors(include_url=False, include_input=False)
        return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
    return None


def _dumped(model: Any) -> Any:
    check_nothing_personal(model)
    # As JSON: the model defines that form for every type it may have, and reports what is wrong.
    return model.model_dump(mode="json", by_alias=True, round_trip=True, warnings="error")


def _validated(data: Any, cls: Any) -> Any:
    return cls.model_validate_json(_to_json(data))


def _is_union_of(is_one: Callable[[Any], bool], hint: Any) -> bool:
    """Whether `hint` is a union of such classes with each other, or with plain types."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
    return any(map(is_one, parts)) and all(part in _PLAIN or is_one(part) for part in parts)


def _one_of_models(union: Any, own: cattrs.Converter) -> Callable[[Any, Any], Any]:
    if _has_others_hook(union, own):
        return _one_by_hook(union, own)
    from pydantic import TypeAdapter  # noqa: PLC0415 (there is a model, so pydantic is there)

    adapter = TypeAdapter(union)
    return lambda data, _: adapter.validate_json(_to_json(data))


def _one_of_structs(union: Any, own: cattrs.Converter) -> Callable[[Any, Any], Any]:
    if _has_others_hook(union, own):
        return _one_by_hook(union, own)
    # Check now rather than at the first event: structs are told apart by tags, which they may lack.
    msgspec.json.Decoder(union)
    return _struct_converted(union, own)


def _has_others_hook(union: Any, own: cattrs.Converter) -> bool:
    """Whether a program has registered its own hook for one of the classes: only that hook can read what it made."""
    hooks = [own.get_structure_hook(part) for part in get_args(union) if part not in _PLAIN]
    return not all(hook is _validated or hasattr(hook, _CONVERTS) for hook in hooks)


def _one_by_hook(union: Any, own: cattrs.Converter) -> Callable[[Any, Any], Any]:
    classes = [part for part in get_args(union) if part not in _PLAIN]
    if len(classes) > 1:
        raise TypeError(f"a hook is registered for one of {union}, so there has to be one that tells them apart")
    return structure_partly_plain(union, own)


def _struct_dumped(_: Any, own: cattrs.Converter) -> Callable[[Any], Any]:
    def dump(struct: Any) -> Any:
        check_nothing_personal(struct)
        return msgspec.to_builtins(struct, builtin_types=(bytes,), enc_hook=own.unstructure)

    return dump


def _struct_converted(_: Any, own: cattrs.Converter) -> Callable[[Any, Any], Any]:
    def convert(data: Any, cls: Any) -> Any:
        return msgspec.convert(data, cls, builtin_types=(bytes,), dec_hook=lambda hint, part: own.structure(part, hint))

    setattr(convert, _CONVERTS, True)
    return convert
