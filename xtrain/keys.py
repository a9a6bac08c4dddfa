"""The reference of all keys of a study and of a cluster's profile, as Markdown: made of the dataclasses themselves.

What a key means is the docstring under its field, read from the source; type, default and what is allowed are the
field's own. ``docs/study_keys.md`` is this module's text, and a test holds the two together.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xtrain.dispatch.cluster import KINDS, Profile, Resources
from xtrain.study import Recipe, Study
from xtrain.tasks.spec import TaskSpec

COMMAND = "python -m xtrain keys --write docs/study_keys.md"
_HEAD = f"""\
<!-- Every key of a study and of a cluster's profile. Written by `{COMMAND}`: change the docstrings, not this. -->
# All keys

Made of the code by `{COMMAND}`. Any key of a study's tables can be set on the command
line: `--set engine.precision="fp32"`.
"""
# Tables that the code reads key by key: field -> what they hold, and how they are headed.
_READ_LATER: dict[tuple[type[Any], str], tuple[type[Any], str]] = {
    (Study, "recipe"): (Recipe, "[recipe.intermediate], [recipe.target], [recipe.target.TASK]"),
    (Study, "task"): (TaskSpec, "[task.NAME]"),
    (Profile, "job"): (Resources, f"[job], [job.KIND] ({', '.join(KINDS)})"),
}
_NOT_WRITTEN = {(Profile, "name"), (Profile, "file"), (TaskSpec, "name")}  # told by the file, or by the table's head
_WORDS: Mapping[Any, str] = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "table"}


def reference() -> str:
    """The whole of ``docs/study_keys.md``."""
    parts = [_HEAD]
    for title, cls in (("A study", Study), ("A cluster's profile", Profile)):
        parts.append(f"\n## {title}\n")
        parts += [_section(head, one) for head, one in tables(cls)]
    return "".join(parts)


def tables(cls: type[Any], head: str = "At the top of the file") -> Iterator[tuple[str, type[Any]]]:
    """``cls`` and every dataclass that a field of it holds, each with the head of its table in TOML."""
    yield head, cls
    above = re.sub(r"[\[\]]", "", head) + "." if head.startswith("[") else ""
    for field in _fields(cls):
        inner, several = _table_in(typing.get_type_hints(cls)[field.name])
        if (cls, field.name) in _READ_LATER:
            inner, own = _READ_LATER[cls, field.name]
        elif inner is not None:
            own = f"[[{above}{field.name}]]" if several else f"[{above}{field.name}]"
        if inner is not None:
            yield from tables(inner, own)


def meanings(cls: type[Any]) -> dict[str, str]:
    """Field -> the docstring under it, in one line; fields without one are not in it."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr)):
            continue
        if isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            found[node.target.id] = " ".join(after.value.value.split())
    return found


def _fields(cls: type[Any]) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(cls) if field.init and (cls, field.name) not in _NOT_WRITTEN]


def _section(head: str, cls: type[Any]) -> str:
    hints, said = typing.get_type_hints(cls), meanings(cls)
    lines = [f"\n### {_code(head)}\n", "| key | type | default | allowed | meaning |", "|---|---|---|---|---|"]
    for field in _fields(cls):
        cells = [f"`{field.name}`", _type(hints[field.name]), _default(field), _allowed(field.metadata),
                 _markdown(said.get(field.name, ""))]  # fmt: skip
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _code(head: str) -> str:
    return re.sub(r"\[+[\w.]+\]+", lambda match: f"`{match[0]}`", head)


def _markdown(text: str) -> str:
    """What reStructuredText marks as code, as Markdown does."""
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")


def _table_in(kind: Any) -> tuple[type[Any] | None, bool]:
    """The dataclass that a field of this type holds, and whether it holds a list of them."""
    if dataclasses.is_dataclass(kind):
        return typing.cast(type[Any], kind), False
    for inner in typing.get_args(kind):
        found, several = _table_in(inner)
        if found is not None:
            return found, several or typing.get_origin(kind) is tuple
    return None, False


def _type(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return "table"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(one) for one in arguments if one is not type(None)))
    if origin is tuple:
        return f"list ({_type(arguments[0])})"
    if origin is not None:
        return "table" if arguments[1] is Any else f"table ({_type(arguments[1])})"
    return _WORDS[kind]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return _value(field.default)
    return "must be there" if field.default_factory is dataclasses.MISSING else _value(field.default_factory())


def _value(value: Any) -> str:
    if value is None or value in ((), {}, ""):
        return "none"
    if dataclasses.is_dataclass(value) or (isinstance(value, tuple) and dataclasses.is_dataclass(value[0])):
        return "below" if not isinstance(value, tuple) else "one"
    return f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_toml, value))}]"
    return f"{value:g}" if isinstance(value, float) and abs(value) < 1e-3 else str(value)


def _allowed(limits: Mapping[str, Any]) -> str:
    if choices := limits.get("choices"):
        return ", ".join(f"`{_toml(one)}`" for one in choices if one != "")
    signs = (("minimum", "≥"), ("above", ">"), ("maximum", "≤"))
    return ", ".join(f"{sign} {limits[name]:g}" for name, sign in signs if limits.get(name) is not None)
