"""The command line as a whole: all verbs, and errors as exit statuses."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from wesemu import __version__
from wesemu.cli import (
    admin,
    configuration,
    conformance,
    data,
    demo,
    doctor,
    jobs,
    run,
    serve,
    submit,
)
from wesemu.cli.output import (
    ExitStatus,
    describe_os_error,
    discard_output,
    on_terminal,
    print_note,
    print_result,
    status_of,
)
from wesemu.errors import WesemuError
from wesemu.util.text import validation_reason

_HELP = (
    "A local emulator of GA4GH WES and Alibaba Cloud Genomics Service that runs real tools.\n\n"
    "Begin with `wesemu demo`: it maps simulated reads and calls variants through both APIs and "
    "checks the answers. Then `wesemu serve`."
)


def build() -> typer.Typer:
    """Return the typer application with all verbs."""
    app = typer.Typer(
        name="wesemu",
        cls=_Verbs,
        help=_HELP,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_wesemu)
    for group in (demo, serve, run, submit, jobs, configuration, admin, data, doctor, conformance):
        group.register(app)
    return app


def execute(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments (default: those of this process), run the verb and exit.

    An expected error is one line on stderr, without a traceback. A usage error is one line, too,
    unless stderr is a terminal.
    """
    try:
        _execute(arguments)
    except WesemuError as error:
        discard_output()
        print_note(f"wesemu: {error.message}")
        sys.exit(status_of(error))
    except BrokenPipeError:  # as in `| head -1`; typer handles those of the verbs in the same way
        discard_output()
        sys.exit(ExitStatus.FAILED)
    except OSError as error:
        message = describe_os_error(error)
        if message is None:
            raise
        discard_output()
        print_note(f"wesemu: {message}")
        sys.exit(ExitStatus.MACHINE)
    except MemoryError:
        print_note("wesemu: there is not enough memory")
        sys.exit(ExitStatus.MACHINE)
    except RuntimeError as error:
        if str(error).startswith("Symlink loop"):  # of Path.resolve before Python 3.13
            print_note(f"wesemu: {error}: links form a circle")
            sys.exit(ExitStatus.MACHINE)
        if "start new thread" not in str(error):
            raise
        print_note(
            "wesemu: no thread can be started, because of too many processes or too little memory; "
            "raise the limits 'ulimit -u' and 'ulimit -v'"
        )
        sys.exit(ExitStatus.MACHINE)


class _Verbs(TyperGroup):
    """All verbs. A value of the wrong type is reported in the words of all other errors: typer
    passes pydantic's text on."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            from pydantic import ValidationError

            if isinstance(error.__cause__, ValidationError):
                error.message = " ".join(validation_reason(error.__cause__)).strip()
            raise


_UsageError: type[typer.BadParameter] = typer.BadParameter.__bases__[0]
"""click's class, or typer's own copy of it; `typer.BadParameter` is the only public subclass."""


def _execute(arguments: Sequence[str] | None) -> None:
    try:
        if on_terminal():
            build()(args=arguments, prog_name="wesemu")
        else:
            _execute_in_script(arguments)
    except SystemExit:
        sys.stdout.flush()  # an error at Python's own flush would be a traceback
        raise


def _execute_in_script(arguments: Sequence[str] | None) -> None:
    command = typer.main.get_command(build())
    try:
        status = command.main(args=arguments, prog_name="wesemu", standalone_mode=False)
    except _UsageError as error:
        message = " ".join(error.format_message().split()).removeprefix("Invalid value: ")
        if message:  # without one, typer has printed the help already
            # typer's parser names no verb if an option has no value, or one too many
            verb = error.ctx.command_path if error.ctx is not None else "wesemu"
            end = " See" if message.endswith("?") else "; see"
            print_note(f"wesemu: {message.rstrip('.')}{end} '{verb} --help'")
        sys.exit(ExitStatus.USAGE)
    except typer.Abort:
        sys.exit(ExitStatus.FAILED)
    sys.exit(status if isinstance(status, int) else ExitStatus.SUCCESS)


def _show_version(wanted: bool) -> None:
    if wanted:
        print_result(f"wesemu {__version__}")
        raise typer.Exit


def _wesemu(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    config: configuration.ConfigFile = None,
) -> None:
    """Declare the options of all verbs. typer does not show this text."""
