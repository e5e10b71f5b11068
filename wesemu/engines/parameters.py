"""Engine parameters by allow-list: none of them becomes a command-line option."""

from collections.abc import Callable, Mapping
from typing import Any

from wesemu.errors import InvalidRequest

_WORDS = {"": True, "1": True, "true": True, "yes": True, "on": True}
_WORDS |= {"0": False, "false": False, "no": False, "off": False}

Readers = Mapping[str, Callable[[str], Any]]
"""What an engine allows; a reader raises ValueError with the rest of the sentence."""


def read_parameters(parameters: Mapping[str, str], readers: Readers) -> dict[str, Any]:
    """The values by name; `keep_going`, `keep-going` and `--keep-going` mean the same.

    Raises InvalidRequest, whose field is the parameter as the caller wrote it.
    """
    values: dict[str, Any] = {}
    for written, value in parameters.items():
        name = written.strip().lstrip("-").replace("-", "_").lower()
        if name not in readers:
            raise InvalidRequest(
                f"the engine parameter {written[:80]!r} is not allowed; "
                f"allowed are {', '.join(sorted(readers))}",
                field=written,
            )
        if name in values:
            raise InvalidRequest(f"the engine parameter {name} is given twice", field=written)
        try:
            values[name] = readers[name](value)
        except ValueError as error:
            raise InvalidRequest(
                f"the engine parameter {written!r} {error}", field=written
            ) from None
    return values


def flag(value: str) -> bool:
    try:
        return _WORDS[value.strip().lower()]
    except KeyError:
        raise ValueError('is a flag; use "true" or "false"') from None


def identifier(value: str) -> str:
    if not (value.isascii() and value.isidentifier()):
        raise ValueError("is a name of letters, digits and underscores")
    return value
