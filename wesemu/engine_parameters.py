"""Engine parameters (WES `workflow_engine_parameters`): the table of all names, and their lookup.

service-info, request validation, error messages and docs/engines.md use this table. The code that
uses a parameter parses its value.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wesemu.errors import InvalidRequest

TRUE = frozenset({"", "1", "true", "yes", "on"})
FALSE = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class ParameterName:
    """One engine parameter.

    `kind` is its type in service-info; `default` is text, "" means not set. Without `engines`, the
    server itself uses it, for all engines. `option` is a short command-line option.
    """

    name: str
    kind: str
    default: str
    about: str
    engines: tuple[str, ...] = ()
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
        "-k",
    ),
    ParameterName("task", "string", "", "the task to run if there are several", ("miniwdl",)),
    ParameterName("targets", "list", "", "rules or files to make", _SNAKEMAKE),
    ParameterName("force", "boolean", "false", "make the targets again", _SNAKEMAKE, "-f"),
    ParameterName("forceall", "boolean", "false", "make everything again", _SNAKEMAKE, "-F"),
    ParameterName("forcerun", "list", "", "rules or files to make again", _SNAKEMAKE, "-R"),
    ParameterName("until", "list", "", "stop at these rules or files", _SNAKEMAKE, "-U"),
    ParameterName(
        "omit_from", "list", "", "leave out these and what depends on them", _SNAKEMAKE, "-O"
    ),
    ParameterName("allowed_rules", "list", "", "use no other rules", _SNAKEMAKE),
    ParameterName("retries", "int", "0", "attempts after a failure, 0 to 100", _SNAKEMAKE, "-T"),
    ParameterName("notemp", "boolean", "false", "keep `temp()` files", _SNAKEMAKE),
    ParameterName(
        "keep_incomplete", "boolean", "false", "keep the outputs of failed jobs", _SNAKEMAKE
    ),
    ParameterName("config", "list", "", "`name=value`, over `workflow_params`", _SNAKEMAKE, "-C"),
    ParameterName(
        "default_resources", "list", "", "`name=value` or an expression, for all rules", _SNAKEMAKE
    ),
    ParameterName("set_resources", "list", "", "`rule:name=value`", _SNAKEMAKE),
    ParameterName("set_threads", "list", "", "`rule=threads`", _SNAKEMAKE),
    ParameterName("set_scatter", "list", "", "`name=items`", _SNAKEMAKE),
    ParameterName(
        "rerun_triggers",
        "list",
        "",
        "`code`, `input`, `mtime`, `params`, `software-env`",
        _SNAKEMAKE,
    ),
    ParameterName("profile", "list", "", "attached folders or files with settings", _SNAKEMAKE),
    ParameterName(
        "workflow_profile", "string", "", "the same; by default `profiles/default`", _SNAKEMAKE
    ),
)
"""All parameters, the server's own first."""

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


def engine_values(
    parameters: Mapping[str, str], engine: str, names: Iterable[str]
) -> dict[str, tuple[str, str]]:
    """Return the parameters that are set and that the engine reads itself (`names`).

    Parameters of the server are left out, and those of other engines if they have their default: a
    client may send all parameters of service-info. Raises InvalidRequest for others.
    """
    values: dict[str, tuple[str, str]] = {}
    for name, (written, value) in given_parameters(parameters).items():
        known = _BY_NAME.get(name)
        if name in names:
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


def read_flag(value: str) -> bool:
    """Parse a flag. Raises ValueError; its text continues "the parameter NAME …"."""
    folded = value.strip().casefold()
    if folded in TRUE:
        return True
    if folded in FALSE:
        return False
    raise ValueError(f'is {value[:40]!r}; it is a flag, use "true" or "false"')
