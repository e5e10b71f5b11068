"""The command line. `main` is the entry point `wesemu`."""


def main() -> None:
    """Run the command line with this process's arguments and exit with its status."""
    from wesemu.cli.app import execute  # keeps `import wesemu.cli` free of everything else

    execute()
