"""The command line `wesemu`. `main` is its entry point."""

import os
import signal
import sys
from contextlib import suppress
from io import TextIOWrapper

_INTERRUPTED = 130


def main() -> None:
    """Run the command line with the arguments of this process and exit with its status."""
    take_interrupts()
    end_cleanly()
    open_streams()
    if os.path.expanduser("~") == "~":  # noqa: PTH111 - pathlib raises RuntimeError
        os.environ["HOME"] = "/"  # as docker does for a user without an entry in /etc/passwd
    try:
        from wesemu.cli.app import execute  # `import wesemu.cli` loads nothing else

        execute()
    except KeyboardInterrupt:  # during the imports; later, typer exits with the same status
        sys.exit(_INTERRUPTED)
    except Ended as ended:  # end by the signal, as without a handler
        signal.signal(ended.number, signal.SIG_DFL)
        signal.raise_signal(ended.number)


class Ended(SystemExit):
    """A signal ends this process. Each `finally` removes its temporary files first."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


def end_cleanly() -> None:
    """Raise Ended in the main thread on SIGTERM and SIGHUP, unless they are ignored (nohup)."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # another one ends the process at once
    raise Ended(number)


def take_interrupts() -> None:
    """Restore the default handler of SIGINT if this process inherited an ignored SIGINT.

    Shells ignore SIGINT for commands that end with `&`, and children inherit that. Without this
    step SIGINT could stop neither servers and demos nor the tools that they start.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def open_streams() -> None:
    """Open closed standard streams as /dev/null; escape characters that an encoding lacks.

    Standard error drops text that cannot be written (`MessageStream`).

    Python has no `sys.stdout` if this process was started with `>&-`. The next file or socket
    would get the number of the closed stream, and child processes would write into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # the lowest free number, which is this one
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # /dev/null needs no such stream; Python keeps the original only as __stderr__
    if isinstance(sys.stderr, TextIOWrapper) and sys.stderr is sys.__stderr__:
        sys.stderr = MessageStream(
            sys.stderr.buffer,
            encoding=sys.stderr.encoding,
            errors=sys.stderr.errors,
            line_buffering=sys.stderr.line_buffering,
            write_through=sys.stderr.write_through,
        )


class MessageStream(TextIOWrapper):
    """Drops text that cannot be written, as on a full disk or to a reader that has ended.

    Otherwise a log without space would fail each request and each run of a server.
    """

    def write(self, text: str, /) -> int:
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()
