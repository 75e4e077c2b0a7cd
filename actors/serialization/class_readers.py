"""Readers of plain attrs classes: functions with the result of cattrs' own, in about half the time.

cattrs calls a function for every field, and then the class. A reader takes over a number or text of the right class
without a call, and makes an object that is nothing but its fields without `__init__`. Other classes are left to cattrs.
"""

import threading
from collections.abc import Callable
from types import MemberDescriptorType
from typing import Annotated, Any, Final, TypeAlias, TypeVar, get_origin

import attrs
import cattrs

from .annotations import annotations_of
from .primitives import structure_primitive

_Structure: TypeAlias = Callable[[Any, Any], Any]
_CACHED: Final = attrs.ClassProps.Hashability.HASHABLE_CACHED


def register_class_readers(converter: cattrs.Converter) -> None:
    """Have a converter read plain attrs classes with readers. Hooks that are registered later take precedence."""
    under_way: set[tuple[int, cattrs.Converter, type]] = set()

    def structuring(cls: type, own: cattrs.Converter) -> _Structure:
        types = _types_of_plain(cls) if _is_as_usual(own) else None
        if types is None:
            return own.gen_structure_attrs_fromdict(cls)
        this = threading.get_ident(), own, cls
        if this in under_way:
            # As in cattrs: the field that refers back to the class then looks up the hook when an object is read.
            raise RecursionError(f"{cls.__name__} is read within {cls.__name__}")
        under_way.add(this)
        try:
            return _make_reader(cls, types, own)
        finally:
            under_way.remove(this)

    converter.register_structure_hook_factory(_is_attrs_class, structuring)


def is_made_of_its_fields(cls: type) -> bool:
    """Whether objects of an attrs class hold nothing but the values that they are made with."""
    properties = vars(cls).get("__attrs_props__")
    if properties is None or not properties.added_init or properties.hashability is _CACHED:
        return False
    makes_its_own: Any = cls.__new__
    if makes_its_own is not object.__new__ or hasattr(cls, "__attrs_pre_init__") or hasattr(cls, "__attrs_post_init__"):
        return False
    return all(field.init and field.converter is None for field in attrs.fields(cls))


def _is_attrs_class(cls: Any) -> bool:
    return isinstance(cls, type) and attrs.has(cls)


def _is_as_usual(converter: cattrs.Converter) -> bool:
    """Whether a converter reads fields from a dict by their own names, and stops at the first error."""
    is_changed = converter.forbid_extra_keys or converter.use_alias or converter.type_overrides
    return not (is_changed or converter.detailed_validation)


def _types_of_plain(cls: type) -> dict[str, Any] | None:
    """The types of the fields of a class, by name; None if no reader can be made for the class."""
    if not is_made_of_its_fields(cls):
        return None
    hints = annotations_of(cls, with_marks=True)
    fields = attrs.fields(cls)
    if not all(_is_plain(cls, field, hints.get(field.name)) for field in fields):
        return None
    return {field.name: hints[field.name] for field in fields}


def _is_plain(cls: type, field: "attrs.Attribute[Any]", hint: Any) -> bool:
    """Whether a field is set through its slot alone, and its annotated type is all that cattrs looks at."""
    if field.validator is not None or not isinstance(getattr(cls, field.name, None), MemberDescriptorType):
        return False
    # A generic class's field may have any type, and the metadata beside a type may be meant for cattrs.
    if hint in (None, Final) or get_origin(hint) is Annotated:
        return False
    if isinstance(hint, TypeVar) or getattr(hint, "__parameters__", None):
        return False
    return field.type == hint or isinstance(field.type, str)


def _make_reader(cls: type, types: dict[str, Any], converter: cattrs.Converter) -> _Structure:
    """Write the reader as source code, as one would by hand for speed, and compile it."""
    known: dict[str, Any] = {"cls": cls, "new": object.__new__}
    lines = ["def read(data, _):", "    made = new(cls)"]
    for field in attrs.fields(cls):
        name = field.name
        known[f"set_{name}"] = getattr(cls, name).__set__
        known[f"type_{name}"] = types[name]
        known[f"structure_{name}"] = structure = _hook_for(types[name], converter)
        indent = "    "
        if field.default is not attrs.NOTHING:
            known[f"default_{name}"], default = _default(field)
            lines += [f"    if {name!r} not in data:", f"        set_{name}(made, {default})", "    else:"]
            indent *= 2
        value = f"structure_{name}(data[{name!r}], type_{name})"
        if structure is structure_primitive:
            lines.append(f"{indent}value = data[{name!r}]")
            value = f"value if value.__class__ is type_{name} else structure_{name}(value, type_{name})"
        lines.append(f"{indent}set_{name}(made, {value})")
    lines.append("    return made")
    exec(compile("\n".join(lines), f"<reader of {cls.__module__}.{cls.__qualname__}>", "exec"), known)
    reader: _Structure = known["read"]
    return reader


def _hook_for(hint: Any, converter: cattrs.Converter) -> _Structure:
    try:
        return converter.get_structure_hook(hint)
    except RecursionError:
        return converter.structure


def _default(field: "attrs.Attribute[Any]") -> tuple[Any, str]:
    """The object that a field's default comes from, and the expression that yields the default."""
    default: Any = field.default
    if not isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return default, f"default_{field.name}"
    return default.factory, f"default_{field.name}({'made' if default.takes_self else ''})"
