"""Engine parameters (WES `workflow_engine_parameters`): their table, parsers and lookup.

service-info, request validation, error messages, docs/engines.md and the engines use this table. A
caller can set the options of an engine that concern the run itself. Most other options run code,
access other files, or belong to the administrator. Parts: parsers of values, the table, lookup by
name, the options of Snakemake.
"""

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from wesemu.errors import InvalidRequest

# Parsers of values.

TRUE = frozenset({"", "1", "true", "yes", "on"})
FALSE = frozenset({"0", "false", "no", "off"})


def read_flag(value: str) -> bool:
    """Parse a flag. Raises ValueError; its text continues "the parameter NAME …"."""
    folded = value.strip().casefold()
    if folded in TRUE:
        return True
    if folded in FALSE:
        return False
    raise ValueError(f'is {value[:40]!r}; it is a flag, use "true" or "false"')


def identifier(value: str) -> str:
    if not (value.isascii() and value.isidentifier()):
        raise ValueError("must be a name of letters, digits and underscores")
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


_RETRY_LIMIT = 100
_TRIGGERS = frozenset({"code", "input", "mtime", "params", "software-env"})
_PAIRS = re.compile(r"[A-Za-z_]\w*=[\w.+-]+(?:[,\s]+[A-Za-z_]\w*=[\w.+-]+)*")
_NAME = r"[A-Za-z_][\w-]*"


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
        raise ValueError(f"must be a whole number from 0 to {_RETRY_LIMIT}")
    return int(value)


def _triggers(value: str) -> tuple[str, ...]:
    found = tuple(name.lower() for name in split_names(value))
    for name in found:
        if name not in _TRIGGERS:
            raise ValueError(f"has {name[:40]!r}; use {', '.join(sorted(_TRIGGERS))}")
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


# The table.


@dataclass(frozen=True, slots=True)
class ParameterName:
    """One engine parameter.

    `kind` is its type in service-info. `default` is text; "" means not set. If `engines` is empty,
    the server handles the parameter itself, for every engine. `read` parses the value for an
    engine. It raises ValueError with the end of the message "the engine parameter NAME …".
    `option` is the short form, such as "-c".
    """

    name: str
    kind: str
    default: str
    about: str
    engines: tuple[str, ...] = ()
    read: Callable[[str], Any] | None = None
    option: str | None = None

    @property
    def is_flag(self) -> bool:
        return self.kind == "boolean"


_SNAKEMAKE = ("snakemake",)

PARAMETERS = (
    ParameterName("cores", "int", "", "most cores that the run uses at a time", option="-c"),
    ParameterName("node", "string", "auto", "`auto`, `cpu` or `cuda`: placement of the run"),
    ParameterName("gpus", "int", "", "GPUs of each GPU task"),
    ParameterName("dry_run", "boolean", "false", "return the plan, run nothing", option="-n"),
    ParameterName("callback_url", "string", "", "receives each state of the run"),
    ParameterName(
        "keep_going",
        "boolean",
        "false",
        "continue with tasks that do not depend on a failed one",
        ("snakemake", "cwltool", "miniwdl"),
        read_flag,
        option="-k",
    ),
    ParameterName(
        "task", "string", "", "the task to run if there are several", ("miniwdl",), identifier
    ),
    ParameterName("targets", "list", "", "rules or files to make", _SNAKEMAKE, _rules_or_files),
    ParameterName(
        "force", "boolean", "false", "make the targets again", _SNAKEMAKE, read_flag, option="-f"
    ),
    ParameterName(
        "forceall", "boolean", "false", "make everything again", _SNAKEMAKE, read_flag, option="-F"
    ),
    ParameterName(
        "forcerun",
        "list",
        "",
        "rules or files to make again",
        _SNAKEMAKE,
        _rules_or_files,
        option="-R",
    ),
    ParameterName(
        "until",
        "list",
        "",
        "stop at these rules or files",
        _SNAKEMAKE,
        _rules_or_files,
        option="-U",
    ),
    ParameterName(
        "omit_from",
        "list",
        "",
        "leave out these and what depends on them",
        _SNAKEMAKE,
        _rules_or_files,
        option="-O",
    ),
    ParameterName("allowed_rules", "list", "", "use no other rules", _SNAKEMAKE, _rules_or_files),
    ParameterName(
        "retries", "int", "0", "attempts after a failure, 0 to 100", _SNAKEMAKE, _count, option="-T"
    ),
    ParameterName("notemp", "boolean", "false", "keep `temp()` files", _SNAKEMAKE, read_flag),
    ParameterName(
        "keep_incomplete",
        "boolean",
        "false",
        "keep the outputs of failed jobs",
        _SNAKEMAKE,
        read_flag,
    ),
    ParameterName(
        "config",
        "list",
        "",
        "`name=value`, over `workflow_params`",
        _SNAKEMAKE,
        _pairs(_NAME, "sample=s1"),
        option="-C",
    ),
    ParameterName(
        "default_resources",
        "list",
        "",
        "`name=value` or an expression, for all rules",
        _SNAKEMAKE,
        _pairs(_NAME, "mem_mb=2000"),
    ),
    ParameterName(
        "set_resources",
        "list",
        "",
        "`rule:name=value`",
        _SNAKEMAKE,
        _pairs(f"{_NAME}:{_NAME}", "sort:mem_mb=2000"),
    ),
    ParameterName("set_threads", "list", "", "`rule=threads`", _SNAKEMAKE, _pairs(_NAME, "sort=4")),
    ParameterName("set_scatter", "list", "", "`name=items`", _SNAKEMAKE, _pairs(_NAME, "split=8")),
    ParameterName(
        "rerun_triggers",
        "list",
        "",
        "`code`, `input`, `mtime`, `params`, `software-env`",
        _SNAKEMAKE,
        _triggers,
    ),
    ParameterName(
        "profile",
        "list",
        "",
        "attached folders or files with settings",
        _SNAKEMAKE,
        _rules_or_files,
    ),
    ParameterName(
        "workflow_profile",
        "string",
        "",
        "the same; by default `profiles/default`",
        _SNAKEMAKE,
        _rules_or_files,
    ),
)
"""All parameters, the server's own first."""

# Lookup.

_BY_NAME = {parameter.name: parameter for parameter in PARAMETERS}
_ALIASES = {"jobs": "cores", "keepgoing": "keep_going", "default_res": "default_resources"}
_SHORT = {parameter.option: parameter.name for parameter in PARAMETERS if parameter.option}
_SHORT |= {"-j": "cores"}


def canonical(written: str) -> str:
    """Return the spelling of the table: `--keep-going`, `Keep_Going` and `-k` give `keep_going`.

    Unknown names are converted in the same way.
    """
    stripped = written.strip()
    if stripped in _SHORT:
        return _SHORT[stripped]
    name = stripped.lstrip("-").replace("-", "_").lower()
    return _ALIASES.get(name, name)


def allowed_names(engine: str) -> list[str]:
    """Return the parameters that a run of this engine accepts, sorted."""
    return sorted(each.name for each in PARAMETERS if not each.engines or engine in each.engines)


def given_parameters(parameters: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the parameters that are set, by table name: (name as written, value).

    An empty value means "not set", except for flags, where it means true. Raises InvalidRequest
    for a parameter that is given twice.
    """
    given: dict[str, tuple[str, str]] = {}
    for written, value in parameters.items():
        name = canonical(written)
        known = _BY_NAME.get(name)
        if known is not None and not known.is_flag and not value.strip():
            continue
        if name in given:
            raise InvalidRequest(f"the engine parameter {name} is given twice", field=written)
        given[name] = (written, value)
    return given


def engines_own(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters without those of the server."""
    servers = {each.name for each in PARAMETERS if not each.engines}
    return {key: value for key, value in parameters.items() if canonical(key) not in servers}


def value_of(parameters: Mapping[str, str], name: str) -> str | None:
    """Return the value of one parameter; None if it is not set."""
    given = given_parameters(parameters).get(name)
    return None if given is None else given[1]


def _engine_values(parameters: Mapping[str, str], engine: str) -> dict[str, tuple[str, str]]:
    """Return the parameters that are set and that the engine reads itself.

    Parameters of the server are left out, and those of other engines if they have their default: a
    client may send all parameters of service-info. Raises InvalidRequest for others.
    """
    values: dict[str, tuple[str, str]] = {}
    for name, (written, value) in given_parameters(parameters).items():
        known = _BY_NAME.get(name)
        if known is not None and engine in known.engines:
            values[name] = (written, value)
        elif known is None or (known.engines and not _is_default(known, value)):
            whose = f"is {' and '.join(known.engines)}'s" if known else "is not allowed"
            raise InvalidRequest(
                f"the engine parameter {written[:80]!r} {whose}; "
                f"for {engine} these are allowed: {', '.join(allowed_names(engine))}",
                field=written,
            )
    return values


def _is_default(known: ParameterName, value: str) -> bool:
    if known.is_flag:
        return value.strip().casefold() in FALSE
    return value.strip() == known.default


def read_parameters(parameters: Mapping[str, str], engine: str) -> dict[str, Any]:
    """Return the parsed values of the parameters that are set and that the engine reads itself.

    Raises InvalidRequest; its field is the parameter as the caller spelled it.
    """
    values: dict[str, Any] = {}
    for name, (written, value) in _engine_values(parameters, engine).items():
        read = _BY_NAME[name].read
        assert read is not None, name
        try:
            values[name] = read(value)
        except ValueError as error:
            raise InvalidRequest(
                f"the engine parameter {written[:80]!r} {error}", field=written
            ) from None
    return values


# Options of Snakemake.


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
