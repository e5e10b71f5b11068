"""Engine parameters by allow-list: parsers of their values, and the options of Snakemake.

A caller can set Snakemake options that concern the run itself. Most other options run code, access
other files, or belong to the administrator.
"""

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from wesemu.engine_parameters import engine_values, read_flag
from wesemu.errors import InvalidRequest

Readers = Mapping[str, Callable[[str], Any]]
"""Parsers by parameter name. A parser raises ValueError with the rest of the error sentence."""


def read_parameters(parameters: Mapping[str, str], engine: str) -> dict[str, Any]:
    """Return the parsed values by their names in `wesemu.engine_parameters`.

    Raises InvalidRequest; its field is the parameter as the caller spelled it.
    """
    readers, values = _READERS[engine], dict[str, Any]()
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


def split_words(value: str) -> tuple[str, ...]:
    """Parse a JSON array of strings, or words separated by blanks with shell quoting."""
    text = value.strip()
    if text.startswith("["):
        try:
            items = json.loads(text)
        except ValueError:
            items = None
        if isinstance(items, list):
            if not all(isinstance(item, str) for item in items):
                raise ValueError("is a list that contains other values than strings")
            return tuple(items)
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise ValueError(f"has an open quote: {error}") from None


def split_names(value: str) -> tuple[str, ...]:
    """Parse like `split_words`; without quotes, commas separate as well."""
    if re.search(r"""["'\\[]""", value):
        return split_words(value)
    return tuple(name for name in re.split(r"[,\s]+", value) if name)


# Options of Snakemake.

_RETRY_LIMIT = 100
_TRIGGERS = frozenset({"code", "input", "mtime", "params", "software-env"})
_PAIRS = re.compile(r"[A-Za-z_]\w*=[\w.+-]+(?:[,\s]+[A-Za-z_]\w*=[\w.+-]+)*")
_NAME = r"[A-Za-z_][\w-]*"


@dataclass(frozen=True, slots=True)
class SnakemakeOptions:
    """Values of the parameters under the names of Snakemake's options.

    `config`, `default_resources` and the `set_` options are command-line words.
    """

    targets: tuple[str, ...] = ()
    force: bool = False
    forceall: bool = False
    forcerun: tuple[str, ...] = ()
    until: tuple[str, ...] = ()
    omit_from: tuple[str, ...] = ()
    allowed_rules: tuple[str, ...] = ()
    rerun_triggers: tuple[str, ...] = ()
    keep_going: bool = False
    keep_incomplete: bool = False
    retries: int = 0
    notemp: bool = False
    config: tuple[str, ...] = ()
    default_resources: tuple[str, ...] = ()
    set_resources: tuple[str, ...] = ()
    set_threads: tuple[str, ...] = ()
    set_scatter: tuple[str, ...] = ()
    profile: tuple[str, ...] = ()
    workflow_profile: tuple[str, ...] = ()


def check_parameters(parameters: Mapping[str, str]) -> SnakemakeOptions:
    """Parse the engine parameters of Snakemake.

    Raises InvalidRequest; its field is the parameter as the caller spelled it.
    """
    return SnakemakeOptions(**read_parameters(parameters, "snakemake"))


def _rules_or_files(value: str) -> tuple[str, ...]:
    found = split_names(value)
    for name in found:
        outside = name.startswith(("-", "/", "~")) or ".." in name.split("/")
        if outside or not name or not name.isprintable():
            raise ValueError(f"names {name[:80]!r}; use rules, or files relative to the run")
    if not found:
        raise ValueError("names nothing; name at least one rule or file")
    return found


def _count(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", value.strip()) or int(value) > _RETRY_LIMIT:
        raise ValueError(f"is a whole number from 0 to {_RETRY_LIMIT}")
    return int(value)


def _triggers(value: str) -> tuple[str, ...]:
    found = tuple(name.lower() for name in split_names(value))
    for name in found:
        if name not in _TRIGGERS:
            raise ValueError(f"has {name[:40]!r}; there are {', '.join(sorted(_TRIGGERS))}")
    return found


def _pairs(shape: str, example: str) -> Callable[[str], tuple[str, ...]]:
    """Return a parser of words like `name=value`; `shape` matches the part before `=`.

    Commas may separate simple pairs.
    """
    begins = re.compile(f"{shape}=.*", re.DOTALL)

    def read(value: str) -> tuple[str, ...]:
        simple = _PAIRS.fullmatch(value.strip())
        found = tuple(re.split(r"[,\s]+", value.strip())) if simple else split_words(value)
        if "(" in value and begins.fullmatch(value.strip()) and not _all(begins, found):
            found = (value.strip(),)  # one expression with blanks
        for word in found:
            if begins.fullmatch(word) is None:
                raise ValueError(f"has {word[:80]!r}; write it as in {example}")
        return found

    return read


def _all(shape: re.Pattern[str], found: tuple[str, ...]) -> bool:
    return all(shape.fullmatch(word) for word in found)


_SNAKEMAKE: Readers = {
    "targets": _rules_or_files,
    "force": read_flag,
    "forceall": read_flag,
    "forcerun": _rules_or_files,
    "until": _rules_or_files,
    "omit_from": _rules_or_files,
    "allowed_rules": _rules_or_files,
    "rerun_triggers": _triggers,
    "keep_going": read_flag,
    "keep_incomplete": read_flag,
    "retries": _count,
    "notemp": read_flag,
    "config": _pairs(_NAME, "sample=s1"),
    "default_resources": _pairs(_NAME, "mem_mb=2000"),
    "set_resources": _pairs(f"{_NAME}:{_NAME}", "sort:mem_mb=2000"),
    "set_threads": _pairs(_NAME, "sort=4"),
    "set_scatter": _pairs(_NAME, "split=8"),
    "profile": _rules_or_files,
    "workflow_profile": _rules_or_files,
}

_READERS: Mapping[str, Readers] = {
    "snakemake": _SNAKEMAKE,
    "cwltool": {"keep_going": read_flag},
    "miniwdl": {"keep_going": read_flag, "task": identifier},
}
