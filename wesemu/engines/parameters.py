"""Engine parameters by allow-list: none of them becomes a command-line option."""

import json
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from wesemu.engine_parameters import engine_values, read_flag
from wesemu.errors import InvalidRequest

Readers = Mapping[str, Callable[[str], Any]]
"""What an engine reads itself; a reader raises ValueError with the rest of the sentence."""

flag = read_flag


def read_parameters(parameters: Mapping[str, str], readers: Readers, engine: str) -> dict[str, Any]:
    """The values by name, in the spelling of the table (`wesemu.engine_parameters`).

    Raises InvalidRequest, whose field is the parameter as the caller wrote it.
    """
    values: dict[str, Any] = {}
    for name, (written, value) in engine_values(parameters, engine, readers).items():
        try:
            values[name] = readers[name](value)
        except ValueError as error:
            raise InvalidRequest(
                f"the engine parameter {written[:80]!r} {error}", field=written
            ) from None
    return values


def identifier(value: str) -> str:
    if not (value.isascii() and value.isidentifier()):
        raise ValueError("is a name of letters, digits and underscores")
    return value


def words(value: str) -> tuple[str, ...]:
    """A list as a command line takes it: a JSON array of strings, or words separated by blanks,
    with quotes around what has blanks itself."""
    text = value.strip()
    if text.startswith("["):
        try:
            items = json.loads(text)
        except ValueError:
            items = None
        if isinstance(items, list):
            if not all(isinstance(item, str) for item in items):
                raise ValueError("is a list of something else than strings")
            return tuple(items)
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise ValueError(f"has an open quote: {error}") from None


def names(value: str) -> tuple[str, ...]:
    """As `words`; without quotes commas separate, too."""
    if re.search(r"""["'\\[]""", value):
        return words(value)
    return tuple(name for name in re.split(r"[,\s]+", value) if name)
