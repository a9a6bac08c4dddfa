"""Plain mappings (TOML, --set) into frozen dataclasses, with every mistake collected and named."""

from __future__ import annotations

import dataclasses
import functools
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from xtrain.errors import Problem, UserError, listed, nearest, printable
from xtrain.files import read_text

T = TypeVar("T")
UNKNOWN_KEY = "unknown key"


def limits(
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] = (),
) -> dict[str, Any]:
    """Metadata of a dataclass field: the values that it allows (bounds for numbers, choices for words)."""
    return {"minimum": minimum, "above": above, "maximum": maximum, "choices": tuple(choices)}


def read_toml(path: Path) -> dict[str, Any]:
    """The mapping in a TOML file; a mistake is a :class:`UserError` that names file and line."""
    text = read_text(path)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(
            Problem(str(path), f"not TOML: {error}", remedy="mend the line; the format is described at toml.io")
        ) from None


def build(cls: type[T], mapping: Mapping[str, Any], where: str, problems: list[Problem], key: str = "") -> T | None:
    """``mapping`` as the frozen dataclass ``cls``.

    ``where`` is the file, ``key`` the dotted key of ``mapping`` in it. Unknown keys, wrong types and values
    outside a field's :func:`limits` are appended to ``problems``; then, or where a key without a default is
    missing, the result is None (or holds defaults), so that the caller can go on and collect more.
    """
    hints = _hints(cls)  # type: ignore[arg-type]  # a class can be hashed
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    complete = True
    for name, value in mapping.items():
        path = f"{key}.{name}" if key else name
        if name not in fields:
            problems.append(
                Problem(f"{where}: {path}", UNKNOWN_KEY, allowed=listed(fields), remedy=nearest(name, fields))
            )
            continue
        converted = _convert(hints[name], value, where, problems, path)
        if converted is _BAD or not _within(fields[name].metadata, converted, where, problems, path):
            complete = complete and _has_default(fields[name])
            continue
        values[name] = converted
    for name, field in fields.items():
        if name not in mapping and not _has_default(field):
            path = f"{key}.{name}" if key else name
            problems.append(Problem(f"{where}: {path}", "missing", remedy=f"add {name} = ..."))
            complete = False
    return cls(**values) if complete else None


def belongs(name: str, keys: Sequence[str]) -> str:
    """``"did you mean a.b.name?"`` for the dotted ``keys`` that end in ``name``, or an empty string."""
    found = [key for key in keys if key.rpartition(".")[2] == name]
    return f"did you mean {' or '.join(found)}?" if found else ""


def dotted_keys(cls: type[Any], above: str = "") -> list[str]:
    """Every key of the frozen dataclass ``cls`` and of the tables in it, such as ``engine.precision``."""
    found = []
    for item in dataclasses.fields(cls):
        kind = _hints(cls)[item.name]  # type: ignore[arg-type]  # a class can be hashed
        if dataclasses.is_dataclass(kind):
            found += dotted_keys(typing.cast(type[Any], kind), f"{above}{item.name}.")
        else:
            found.append(f"{above}{item.name}")
    return found


_hints = functools.cache(typing.get_type_hints)  # evaluating them for every entry of the catalogue takes seconds

_BAD = object()  # what a value that could not be converted turns into


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _convert(kind: Any, value: Any, where: str, problems: list[Problem], path: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, where, problems, path)
    if kind is Any:
        return value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            return _wrong(value, "a list", where, problems, path)
        items = [_convert(arguments[0], item, where, problems, f"{path}[{n}]") for n, item in enumerate(value)]
        return _BAD if any(item is _BAD for item in items) else tuple(items)
    if origin in (Mapping, dict):
        if not isinstance(value, Mapping):
            return _wrong(value, "a table of keys and values", where, problems, path)
        pairs = {name: _convert(arguments[1], item, where, problems, f"{path}.{name}") for name, item in value.items()}
        return _BAD if any(item is _BAD for item in pairs.values()) else pairs
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            return _wrong(value, "a table of keys and values", where, problems, path)
        built = build(typing.cast(type[Any], kind), value, where, problems, path)
        return _BAD if built is None else built
    return _scalar(kind, value, where, problems, path)


def _convert_union(kinds: Sequence[Any], value: Any, where: str, problems: list[Problem], path: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    others = [kind for kind in kinds if kind is not type(None)]
    for kind in others:
        attempt: list[Problem] = []
        converted = _convert(kind, value, where, attempt, path)
        if converted is not _BAD and not attempt:
            return converted
    if len(others) == 1:
        return _convert(others[0], value, where, problems, path)
    names = " or ".join(_KIND_NAMES.get(typing.get_origin(kind) or kind, str(kind)) for kind in others)
    return _wrong(value, names, where, problems, path)


_KIND_NAMES: dict[Any, str] = {
    str: "text in quotes",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a list",
}


def _scalar(kind: Any, value: Any, where: str, problems: list[Problem], path: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
        return value
    return _wrong(value, _KIND_NAMES[kind], where, problems, path)


def _wrong(value: Any, allowed: str, where: str, problems: list[Problem], path: str) -> Any:
    problems.append(Problem(f"{where}: {path}", f"{value!r} is not allowed", allowed=allowed))
    return _BAD


def _within(metadata: Mapping[str, Any], value: Any, where: str, problems: list[Problem], path: str) -> bool:
    """Whether ``value`` keeps the field's limits; otherwise a problem is added."""
    if metadata.get("choices") and value not in metadata["choices"]:
        remedy = nearest(str(value), metadata["choices"])
        problems.append(
            Problem(f"{where}: {path}", f"{value!r} is not allowed", listed(metadata["choices"]), remedy=remedy)
        )
        return False
    low, above, high = (metadata.get(name) for name in ("minimum", "above", "maximum"))
    if value is None or isinstance(value, (str, tuple, Mapping)):
        return True
    too_low = (low is not None and value < low) or (above is not None and value <= above)
    if too_low or (high is not None and value > high) or value != value:
        bounds = [f">= {low:g}" if low is not None else "", f"> {above:g}" if above is not None else ""]
        bounds.append(f"<= {high:g}" if high is not None else "")
        allowed = " and ".join(bound for bound in bounds if bound)
        problems.append(Problem(f"{where}: {path}", f"{value!r} is not allowed", allowed=f"a number {allowed}"))
        return False
    return True


def parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    """``a.b=3`` of ``--set`` as ``(("a", "b"), 3)``; the value is read as TOML, else taken as text."""
    if printable(text) != text:
        raise UserError(Problem(f"--set {text}", "is not UTF-8", remedy="type it in a terminal whose locale is UTF-8"))
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(Problem(f"--set {text}", "is not KEY=VALUE", remedy="for example --set recipe.target.epochs=2"))
    try:
        parsed = tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    return tuple(part.strip() for part in key.split(".")), parsed


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` laid on it: tables are merged key by key, anything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def nested(keys: Sequence[str], value: Any) -> dict[str, Any]:
    """``("a", "b"), 3`` as ``{"a": {"b": 3}}``."""
    for key in reversed(keys):
        value = {key: value}
    return typing.cast(dict[str, Any], value)
