"""Settings for a verb: its flags over the environment, over wesemu.toml, over the defaults."""

from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import SettingsError

from wesemu.cli.failures import ExitStatus, Refused
from wesemu.cli.output import tell
from wesemu.settings import Settings, unknown_variables
from wesemu.wording import validation_reason


def load(**flags: object) -> Settings:
    """The settings, `flags` that are not None first; warns of variables that nobody reads.

    Raises Refused for a setting that is unknown or out of its range.
    """
    for name in unknown_variables():
        tell(f"wesemu: the environment variable {name} names no setting and is ignored")
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        settings = Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        name, reason = validation_reason(error)
        raise Refused(f"the setting {name!r}: {reason}", ExitStatus.USAGE) from error
    except SettingsError as error:
        raise Refused(
            "a WESEMU_* variable is not JSON; write lists and tables as JSON, as "
            """WESEMU_AUTH__TOKENS='{"secret": "alice"}'""",
            ExitStatus.USAGE,
        ) from error
    except ValueError as error:  # not TOML
        raise Refused(f"wesemu.toml cannot be read: {error}", ExitStatus.USAGE) from error
    return settings.model_copy(update={"data": settings.data.absolute()})


def check_data(data: Path | None) -> None:
    """Before a verb writes into the data directory that the flag or the settings name.

    Raises DataDirectoryRefused for one that is not wesemu's.
    """
    from wesemu.datadir import DataDirectory

    settings = load(data=data)
    DataDirectory(settings.data).check(adopt=settings.adopt_data)
