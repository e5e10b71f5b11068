"""Engine parameters that no engine sees: the server takes them itself. Extensions."""

from collections.abc import Mapping
from dataclasses import dataclass

from wesemu.errors import InvalidRequest

_NAMES = frozenset({"dry_run", "callback_url"})
_TRUE = frozenset({"", "1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class OwnParameters:
    """What the server was asked, and `others`: the parameters for the engine."""

    others: Mapping[str, str]
    dry_run: bool = False
    callback_url: str | None = None


def split_parameters(parameters: Mapping[str, str]) -> OwnParameters:
    """`dry_run`, `dry-run` and `--dry-run` mean the same, as with the engines' own parameters.

    Raises InvalidRequest, naming the field.
    """
    others: dict[str, str] = {}
    own: dict[str, str] = {}
    for written, value in parameters.items():
        name = written.strip().lstrip("-").replace("-", "_").lower()
        if name not in _NAMES:
            others[written] = value
        elif name in own:
            raise _wrong(name, "is given twice")
        else:
            own[name] = value
    return OwnParameters(
        others,
        dry_run=_flag("dry_run", own.get("dry_run", "false")),
        callback_url=own.get("callback_url"),
    )


def _flag(name: str, text: str) -> bool:
    folded = text.strip().casefold()
    if folded in _TRUE:
        return True
    if folded in _FALSE:
        return False
    raise _wrong(name, f"is {text[:40]!r}; it is true or false")


def _wrong(name: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"the engine parameter {name} {why}", field=f"workflow_engine_parameters.{name}"
    )
