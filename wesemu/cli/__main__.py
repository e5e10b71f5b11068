"""`python -m wesemu.cli`: the command line of exactly this installation."""

from wesemu.cli import main

main()
