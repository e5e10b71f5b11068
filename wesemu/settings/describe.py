"""Descriptions of all settings, from their declarations: keys, values, defaults and meanings.

`wesemu config` and docs/settings.md show them. The meaning of a setting is the docstring below it,
so reading it needs the source code, which is slow; servers do not load this module.
"""

import ast
import inspect
import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from textwrap import dedent
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from wesemu.settings import Settings

SECRET = frozenset({"auth.ags_keys", "auth.tokens", "auth.admin_token", "callbacks.secret"})
"""Settings whose values are never shown. Values of the type SecretStr are not shown either."""


@dataclass(frozen=True, slots=True)
class SettingDescription:
    """One setting. `key` is its dotted path; `default` is written as in TOML, "" without one.

    `<name>` in a key stands for a name that the user chooses.
    """

    key: str
    values: str
    default: str
    meaning: str

    @property
    def variable(self) -> str:
        """The environment variable of the setting; "" for one below a user's name."""
        return "" if "<" in self.key else f"WESEMU_{self.key.upper().replace('.', '__')}"


@dataclass(frozen=True, slots=True)
class SettingGroup:
    """The settings of one table of wesemu.toml; `name` is "" for those outside of tables."""

    name: str
    meaning: str
    settings: tuple[SettingDescription, ...]


def groups() -> list[SettingGroup]:
    """Describe all settings, in the order of their declarations."""
    return list(_groups(Settings, ""))


def find(key: str) -> SettingDescription | SettingGroup | None:
    """Return the setting or the group with this key; None if there is none."""
    for group in groups():
        if group.name and group.name == key:
            return group
        for setting in group.settings:
            if setting.key == key:
                return setting
    return None


def to_toml(value: object) -> str:
    """Return a value of a setting as TOML writes it; secrets as `"…"`."""
    match value:
        case bool():
            return str(value).lower()
        case int() | Decimal():
            return str(value)
        case float():
            return f"{value:.15g}"  # `repr` would write 75.0
        case SecretStr():
            return '"…"' if value.get_secret_value() else '""'
        case BaseModel():
            pairs = ((name, getattr(value, name)) for name in type(value).model_fields)
            return "{" + ", ".join(f"{name} = {to_toml(each)}" for name, each in pairs) + "}"
        case Mapping():
            pairs = ((json.dumps(str(name)), each) for name, each in value.items())
            return "{" + ", ".join(f"{name} = {to_toml(each)}" for name, each in pairs) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(to_toml, value)) + "]"
        case None:
            return ""
    return json.dumps(str(value), ensure_ascii=False)


def _groups(model: type[BaseModel], prefix: str) -> Iterator[SettingGroup]:
    meanings = _meanings(model)
    own, nested = [], []
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        group, below = _group_of(field.annotation)
        if group is not None:
            nested.append((group, f"{key}{below}"))
        else:
            own.append(_describe(key, field, meanings.get(name, "")))
    about = "" if not prefix else inspect.cleandoc(model.__doc__ or "")
    yield SettingGroup(prefix.removesuffix("."), " ".join(about.split()), tuple(own))
    for group, key in nested:
        yield from _groups(group, f"{key}.")


def _group_of(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """Return the settings group in a field, and the suffix of the group's key (".<name>" or "")."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation, ""
    if get_origin(annotation) is dict:
        value = get_args(annotation)[1]
        if inspect.isclass(value) and issubclass(value, BaseModel):
            return value, ".<name>"
    return None, ""


def _describe(key: str, field: FieldInfo, meaning: str) -> SettingDescription:
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        text = ""
    else:
        text = '"…"' if key in SECRET and default else to_toml(default)
    return SettingDescription(key, _values(field), text, meaning)


def _values(field: FieldInfo) -> str:
    """Return the values that a setting takes, for people."""
    limits = []
    for each in field.metadata:
        for name, word in (("ge", "from"), ("gt", "more than"), ("le", "to"), ("lt", "below")):
            if (limit := getattr(each, name, None)) is not None:
                limits.append(f"{word} {limit}")
    return " ".join([_type(field.annotation), *limits])


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return ", ".join(map(to_toml, arguments))
    if origin in (Union, types.UnionType):
        kinds = [_type(each) for each in arguments if each is not type(None)]
        return " or ".join(dict.fromkeys(kinds))
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"table of {_type(arguments[1])}"
    if inspect.isclass(annotation) and issubclass(annotation, Enum):
        return ", ".join(to_toml(each.value) for each in annotation)
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "table"
    return _TYPES.get(annotation, "text") if isinstance(annotation, type) else "text"


_TYPES: Mapping[type, str] = {
    bool: "true, false",
    int: "whole number",
    float: "number",
    Decimal: "number",
    Path: "path",
    IPv4Network: "network",
    IPv6Network: "network",
}


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstrings below the fields of a model and of its bases."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if kind.__module__.startswith("wesemu."):
            found |= _docstrings(kind)
    return found


def _docstrings(kind: type) -> dict[str, str]:
    tree = ast.parse(dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for statement, following in zip(tree.body, tree.body[1:], strict=False):
        match statement, following:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
    return found
