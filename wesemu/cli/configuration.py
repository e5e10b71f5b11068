"""Settings of a verb, and the verbs `wesemu config` and `wesemu env`.

Flags take precedence over environment variables, wesemu.toml and defaults, in this order.
"""

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wesemu.cli.output import (
    DEFAULT_SERVER,
    AsJson,
    CommandRefused,
    ExitStatus,
    Server,
    Token,
    path_argument,
    path_option,
    print_note,
)

if TYPE_CHECKING:
    from pydantic import ValidationError
    from yarl import URL

    from wesemu.settings import Settings
    from wesemu.settings.describe import SettingDescription

DEFAULT_FILE = Path("wesemu.toml")

_file: ContextVar[Path | None] = ContextVar("config file", default=None)


def _use_file(context: typer.Context, file: Path | None) -> Path | None:
    """Use `file` as the configuration file until the command has ended."""
    if file is not None:
        if not file.is_file():
            raise CommandRefused(f"--config: there is no file {file}", ExitStatus.USAGE)
        token = _file.set(file)
        context.call_on_close(lambda: _file.reset(token))
    return file


ConfigFile = Annotated[
    Path | None,
    path_option(
        "--config",
        envvar="WESEMU_CONFIG",
        callback=_use_file,
        is_eager=True,
        help="The configuration file.",
        metavar="FILE",
        show_default="./wesemu.toml",
    ),
]


def configuration_file() -> Path:
    """Return the file of --config or WESEMU_CONFIG, else ./wesemu.toml, which may be missing."""
    return _file.get() or DEFAULT_FILE


def load_settings(**flags: object) -> "Settings":
    """Return the settings. `flags` that are not None take precedence.

    Print a warning for each unknown WESEMU_* variable. Raise CommandRefused, which lists all
    settings that are unknown or out of range.
    """
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from wesemu.settings import settings_from, unknown_variables

    for name in unknown_variables():
        guess = _similar(name, (each.variable for each in _descriptions()))
        print_note(
            f"wesemu: the environment variable {name} is not a setting and is ignored{guess}"
        )
    file = configuration_file()
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        settings = settings_from(file, **given)
    except ValidationError as error:
        raise CommandRefused(_wrong_settings(error, given, file), ExitStatus.USAGE) from error
    except SettingsError as error:
        raise CommandRefused(
            "a WESEMU_* variable is not valid JSON; write lists and tables as JSON: "
            """WESEMU_AUTH__TOKENS='{"secret": "alice"}'""",
            ExitStatus.USAGE,
        ) from error
    except ValueError as error:  # invalid TOML
        raise CommandRefused(f"{file.absolute()} is not TOML: {error}", ExitStatus.USAGE) from error
    return settings.model_copy(update={"data": settings.data.resolve()})


def _wrong_settings(error: "ValidationError", flags: Mapping[str, object], file: Path) -> str:
    """Return an error message: one line for each wrong setting, and a heading if several."""
    from wesemu.settings import read_file
    from wesemu.util.text import validation_reasons

    lines, content = [], read_file(file)
    for key, reason in validation_reasons(error).items():
        if reason.startswith(_UNKNOWN) and (guess := _similar(key, _keys())):
            reason = f"{_UNKNOWN}{guess}"
        source = source_of(key, flags, file, content)
        named = source.startswith("--") and "." not in key
        lines.append(
            f"{source}: {reason}" if named else f"{source}: {key or 'the settings'}: {reason}"
        )
    return (
        lines[0] if len(lines) == 1 else "\n  ".join((f"{len(lines)} settings are wrong:", *lines))
    )


_UNKNOWN = "is not known"


def _similar(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean NAME?" with the most similar known name, or ""."""
    from difflib import get_close_matches

    found = get_close_matches(name, known, n=1, cutoff=0.8)
    return f"; did you mean {found[0]}?" if found else ""


def _descriptions() -> "Iterator[SettingDescription]":
    from wesemu.settings.describe import groups

    return (each for group in groups() for each in group.settings)


def _keys() -> list[str]:
    return [each.key for each in _descriptions()]


def source_of(key: str, flags: Mapping[str, object], file: Path, content: Mapping[str, Any]) -> str:
    """Return where a setting comes from: a flag, a variable, the file, or "default".

    `content` is what `file` contains.
    """
    parts = key.split(".")
    if parts[0] in flags:
        return f"--{parts[0].replace('_', '-')}"
    for length in range(len(parts), 0, -1):
        variable = f"WESEMU_{'__'.join(parts[:length]).upper()}"
        if any(name.upper() == variable for name in os.environ):
            return variable
    return str(file.absolute()) if _is_in(content, parts) else "default"


def _is_in(values: Any, parts: Sequence[str]) -> bool:
    """Whether the content of a file sets the setting with this path."""
    for part in parts[:-1]:
        values = values.get(part) if isinstance(values, dict) else None
    return isinstance(values, dict) and parts[-1] in values


def check_data(data: Path | None) -> None:
    """Check the data directory before a verb writes to it.

    Raise DataDirectoryRefused if it belongs to something else than wesemu.
    """
    from wesemu.runs.data_directory import DataDirectory

    settings = load_settings(data=data)
    DataDirectory(settings.data).check(adopt=settings.adopt_data)


# --- `wesemu config` ---


def show(
    changed: Annotated[
        bool, typer.Option("--changed", help="Only settings that a variable or the file sets.")
    ] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show all settings, and whether a variable or the file sets them. Secrets are hidden."""
    from wesemu.cli.output import print_json, print_table
    from wesemu.settings import read_file

    settings = load_settings()
    file = configuration_file()
    rows, content = [], read_file(file)
    for setting in _descriptions():
        value = _value_of(settings, setting.key)
        source = _short_source(setting.key, file, content)
        if value is not None and not (changed and source == "default"):
            rows.append((setting.key, value, source))
    if as_json:
        print_json([{"key": key, "value": value, "from": source} for key, value, source in rows])
    elif rows:
        print_table(("SETTING", "VALUE", "FROM"), rows)
    else:
        print_note("all settings have their defaults")


def init(
    file: Annotated[Path, path_argument(metavar="FILE", help="The file to write.")] = DEFAULT_FILE,
) -> None:
    """Write a configuration file with all settings, their meanings and defaults, as comments."""
    from wesemu.cli.output import print_result

    if file.exists():
        raise CommandRefused(f"{file} exists already; move it away, or name another file")
    file.write_text(template(), encoding="utf-8")
    print_result(str(file))


def explain(
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="node.cores, or a group: node.", show_default=False)
    ],
    config: ConfigFile = None,
) -> None:
    """Explain a setting: its meaning, values, default, current value, and variable."""
    from wesemu.cli.output import print_result
    from wesemu.settings import read_file
    from wesemu.settings.describe import SettingDescription, find

    found = find(key)
    if found is None:
        close = [each for each in _keys() if key in each][:5]
        hint = f"; there is {', '.join(close)}" if close else _similar(key, _keys())
        hint = hint or "; 'wesemu config show' lists all"
        raise CommandRefused(f"there is no setting {key!r}{hint}", ExitStatus.USAGE)
    if not isinstance(found, SettingDescription):
        print_result(f"{found.name}: {found.meaning}")
        for setting in found.settings:
            print_result(f"  {setting.key}: {setting.meaning}")
        return
    value = _value_of(load_settings(), key)
    file = configuration_file()
    print_result(f"{key}: {found.meaning}")
    print_result(f"  values    {found.values}")
    print_result(f"  default   {found.default or 'none'}")
    if value is not None:
        print_result(f"  now       {value} ({_short_source(key, file, read_file(file))})")
    if found.variable:
        print_result(f"  variable  {found.variable}")


def template() -> str:
    """Return the text of a configuration file whose settings are comments."""
    from textwrap import wrap

    from wesemu.settings.describe import groups

    lines = ["# Settings of wesemu. Remove the '#' before a setting to change it.", ""]
    for group in groups():
        if group.name:
            lines += [f"# {group.meaning}", f"#[{group.name.replace('<name>', 'NAME')}]", ""]
        for setting in group.settings:
            name = setting.key.removeprefix(f"{group.name}.")
            lines += [f"# {line}" for line in wrap(setting.meaning, 96)]
            lines += [f"#{name} = {setting.default}".rstrip(), ""]
    return "\n".join(lines)


def _value_of(settings: "Settings", key: str) -> str | None:
    """Return the value of a setting as TOML, None for one below a user's name."""
    from wesemu.settings.describe import SECRET, to_toml

    if "<" in key:
        return None
    value: Any = settings
    for part in key.split("."):
        value = getattr(value, part)
    return '"…"' if key in SECRET and value else to_toml(value)


def _short_source(key: str, file: Path, content: Mapping[str, Any]) -> str:
    source = source_of(key, {}, file, content)
    return file.name if source == str(file.absolute()) else source


# --- `wesemu env`: variables that clients of a server read ---


def register(app: typer.Typer) -> None:
    settings = typer.Typer(no_args_is_help=True, help="The settings, and their file.")
    for verb in (show, init, explain):
        settings.command()(verb)
    app.add_typer(settings, name="config", rich_help_panel="Server")
    group = typer.Typer(
        no_args_is_help=True, help='Print variables for a shell: eval "$(wesemu env ags)".'
    )
    group.command()(ags)
    group.command()(wes)
    app.add_typer(group, name="env", rich_help_panel="Server")


def ags(server: Server = DEFAULT_SERVER) -> None:
    """Print the server and an access key as Alibaba's SDKs read them, and AGS_ENDPOINT.

    The key is the first one of the setting auth.ags_keys. Without keys it is `any`, which a
    server without credentials accepts.
    """
    url = _url_for_clients(server)
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
    url = _url_for_clients(server)
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


def _url_for_clients(server: str) -> "URL":
    """Return the URL of a server. Raise CommandRefused for a unix socket, and for a URL with a path
    that a proxy strips."""
    from wesemu.client.transport import path_prefix, server_url, socket_path

    if socket_path(server) is not None:
        raise CommandRefused(
            f"other clients cannot use the unix socket {server}; name a server with a port. "
            "For wesemu's own verbs, WESEMU_SERVER suffices",
            ExitStatus.USAGE,
        )
    url = server_url(server)
    if prefix := path_prefix(url):
        raise CommandRefused(
            f"other clients cannot use an address with a path, as {prefix} in {server}; name the "
            "server itself. For wesemu's own verbs, WESEMU_SERVER suffices",
            ExitStatus.USAGE,
        )
    return url


def _print_exports(variables: Mapping[str, str]) -> None:
    from wesemu.cli.output import print_result

    for name, value in variables.items():
        print_result(f"export {name}={shlex.quote(value)}")
