"""The command line `wesemu`. `main` is its entry point."""

import signal


def main() -> None:
    """Run the command line with the arguments of this process and exit with its status."""
    take_interrupts()
    from wesemu.cli.app import execute  # `import wesemu.cli` loads nothing else

    execute()


def take_interrupts() -> None:
    """Restore the default handler of SIGINT if this process inherited an ignored SIGINT.

    Shells ignore SIGINT for commands that end with `&`, and children inherit that. Without this
    step SIGINT could stop neither servers and demos nor the tools that they start.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
