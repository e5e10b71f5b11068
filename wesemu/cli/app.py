"""The command line as a whole: all verbs, and errors as exit statuses."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from wesemu import __version__
from wesemu.cli import admin, configuration, data, demo, doctor, jobs, run, serve
from wesemu.cli.output import ExitStatus, describe_os_error, print_note, print_result, status_of
from wesemu.errors import WesemuError

_HELP = (
    "A local emulator of GA4GH WES and Alibaba Cloud Genomics Service that runs real tools.\n\n"
    "Begin with `wesemu demo`: it maps simulated reads and calls variants through both APIs and "
    "checks the answers. Then `wesemu serve`."
)


def build() -> typer.Typer:
    """Return the typer application with all verbs."""
    app = typer.Typer(
        name="wesemu",
        help=_HELP,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_wesemu)
    for group in (demo, serve, run, jobs, configuration, admin, data, doctor):
        group.register(app)
    return app


def execute(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments (default: those of this process), run the verb and exit.

    An expected error is one line on stderr, without a traceback.
    """
    try:
        build()(args=arguments, prog_name="wesemu")
    except WesemuError as error:
        print_note(f"wesemu: {error.message}")
        sys.exit(status_of(error))
    except OSError as error:
        message = describe_os_error(error)
        if message is None:
            raise
        print_note(f"wesemu: {message}")
        sys.exit(ExitStatus.MACHINE)


def _show_version(wanted: bool) -> None:
    if wanted:
        print_result(f"wesemu {__version__}")
        raise typer.Exit


def _wesemu(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Declare --version. typer does not show this text."""
