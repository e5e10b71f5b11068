"""Engine parameters that no engine sees: the server takes them itself. Extensions."""

from collections.abc import Mapping
from dataclasses import dataclass

from wesemu.engine_parameters import canonical, given_parameters, read_flag
from wesemu.errors import InvalidRequest

_DRY_RUN, _CALLBACK = "dry_run", "callback_url"


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
    try:
        given = {name: value for name, (_, value) in given_parameters(parameters).items()}
    except InvalidRequest as error:
        raise InvalidRequest(
            error.message, field=f"workflow_engine_parameters.{canonical(error.field or '')}"
        ) from None
    return OwnParameters(
        {
            written: value
            for written, value in parameters.items()
            if canonical(written) not in (_DRY_RUN, _CALLBACK)
        },
        dry_run=_flag(_DRY_RUN, given.get(_DRY_RUN, "false")),
        callback_url=given.get(_CALLBACK),
    )


def _flag(name: str, text: str) -> bool:
    try:
        return read_flag(text)
    except ValueError as error:
        raise InvalidRequest(
            f"the engine parameter {name} {error}", field=f"workflow_engine_parameters.{name}"
        ) from None
