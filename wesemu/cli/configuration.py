"""Settings of a verb, and the verb `wesemu env`.

Flags take precedence over environment variables, wesemu.toml and defaults, in this order.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from wesemu.cli.output import DEFAULT_SERVER, CommandRefused, ExitStatus, Server, Token, print_note

if TYPE_CHECKING:
    from wesemu.settings import Settings


def load_settings(**flags: object) -> "Settings":
    """Return the settings. `flags` that are not None take precedence.

    Print a warning for each unknown WESEMU_* variable. Raise CommandRefused for a setting that is
    unknown or out of range.
    """
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from wesemu.settings import Settings, unknown_variables
    from wesemu.util.text import validation_reason

    for name in unknown_variables():
        print_note(f"wesemu: the environment variable {name} is not a setting and is ignored")
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        settings = Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        name, reason = validation_reason(error)
        raise CommandRefused(f"the setting {name!r}: {reason}", ExitStatus.USAGE) from error
    except SettingsError as error:
        raise CommandRefused(
            "a WESEMU_* variable is not valid JSON; write lists and tables as JSON: "
            """WESEMU_AUTH__TOKENS='{"secret": "alice"}'""",
            ExitStatus.USAGE,
        ) from error
    except ValueError as error:  # invalid TOML
        raise CommandRefused(f"wesemu.toml cannot be read: {error}", ExitStatus.USAGE) from error
    return settings.model_copy(update={"data": settings.data.absolute()})


def check_data(data: Path | None) -> None:
    """Check the data directory before a verb writes to it.

    Raise DataDirectoryRefused if it belongs to something else than wesemu.
    """
    from wesemu.runs.data_directory import DataDirectory

    settings = load_settings(data=data)
    DataDirectory(settings.data).check(adopt=settings.adopt_data)


# --- `wesemu env`: variables that clients of a server read ---


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        no_args_is_help=True, help='Print variables for a shell: eval "$(wesemu env ags)".'
    )
    group.command("ags")(ags)
    group.command("wes")(wes)
    app.add_typer(group, name="env", rich_help_panel="Server")


def ags(server: Server = DEFAULT_SERVER) -> None:
    """Print the server and an access key as Alibaba's SDKs read them, and AGS_ENDPOINT.

    The key is the first one of the setting auth.ags_keys. Without keys it is `any`, which a
    server without credentials accepts.
    """
    from wesemu.client.transport import server_url

    url = server_url(server)
    key_id, secret = next(iter(load_settings().auth.ags_keys.items()), ("any", "any"))
    _print_exports(
        {
            "WESEMU_SERVER": str(url.origin()),
            "ALIBABA_CLOUD_ACCESS_KEY_ID": key_id,
            "ALIBABA_CLOUD_ACCESS_KEY_SECRET": secret,
            # older SDKs, and the sample on the page of AGS
            "ALIYUN_ACCESS_KEY_ID": key_id,
            "ALIYUN_ACCESS_KEY_SECRET": secret,
            "accessKeyID": key_id,
            "accessKeySecret": secret,
            "AGS_ENDPOINT": url.authority,
            "AGS_PROTOCOL": url.scheme,
            "OSS_ACCESS_KEY_ID": key_id,
            "OSS_ACCESS_KEY_SECRET": secret,
            "OSS_ENDPOINT": str(url.origin()),
        }
    )


def wes(server: Server = DEFAULT_SERVER, token: Token = None) -> None:
    """Print the server and a token as wes-client and this command line read them.

    Without --token the token is the first one of the setting auth.tokens, if there is one.
    """
    from wesemu.client.transport import server_url

    url = server_url(server)
    token = token or next(iter(load_settings().auth.tokens), None)
    credentials = {"WESEMU_TOKEN": token, "WES_API_AUTH": token} if token else {}
    _print_exports(
        {
            "WESEMU_SERVER": str(url.origin()),
            "WES_API_HOST": url.authority,
            "WES_API_PROTO": url.scheme,
            **credentials,
        }
    )


def _print_exports(variables: Mapping[str, str]) -> None:
    from wesemu.cli.output import print_result

    for name, value in variables.items():
        print_result(f"export {name}={shlex.quote(value)}")
