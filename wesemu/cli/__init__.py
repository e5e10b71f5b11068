"""The command line. `main` is the entry point `wesemu`."""

import signal


def main() -> None:
    """Run the command line with this process's arguments and exit with its status."""
    take_interrupts()
    from wesemu.cli.app import execute  # keeps `import wesemu.cli` free of everything else

    execute()


def take_interrupts() -> None:
    """React to SIGINT even where the parent ignores it, as shells do for commands with `&`.

    A child inherits an ignored signal. Servers and demos could then not be stopped by SIGINT, and
    neither could the tools that they start.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
