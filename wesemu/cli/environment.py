"""`wesemu env`: what clients of a server need in their environment, for `eval`."""

import shlex
from collections.abc import Mapping

import typer

from wesemu.cli.options import DEFAULT_SERVER, Server, Token


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        no_args_is_help=True, help='Print variables for a shell: eval "$(wesemu env ags)".'
    )
    group.command("ags")(ags)
    group.command("wes")(wes)
    app.add_typer(group, name="env", rich_help_panel="Server")


def ags(server: Server = DEFAULT_SERVER) -> None:
    """Print the server and an access key as Alibaba's SDKs read them, and AGS_ENDPOINT.

    The key is the first one of the settings (auth.ags_keys); without any it is
    `any`, which an open server takes.
    """
    from wesemu.cli.configuration import load
    from wesemu.client.transport import server_url

    url = server_url(server)
    key_id, secret = next(iter(load().auth.ags_keys.items()), ("any", "any"))
    _give(
        {
            "WESEMU_SERVER": str(url.origin()),
            "ALIBABA_CLOUD_ACCESS_KEY_ID": key_id,
            "ALIBABA_CLOUD_ACCESS_KEY_SECRET": secret,
            # the SDK before that one, and the sample on AGS's own page
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

    Without --token the token is the first one of the settings (auth.tokens), if there is one.
    """
    from wesemu.cli.configuration import load
    from wesemu.client.transport import server_url

    url = server_url(server)
    shown = token or next(iter(load().auth.tokens), "")
    credentials = {"WESEMU_TOKEN": shown, "WES_API_AUTH": shown} if shown else {}
    _give(
        {
            "WESEMU_SERVER": str(url.origin()),
            "WES_API_HOST": url.authority,
            "WES_API_PROTO": url.scheme,
            **credentials,
        }
    )


def _give(variables: Mapping[str, str]) -> None:
    from wesemu.cli.output import give

    for name, value in variables.items():
        give(f"export {name}={shlex.quote(value)}")
