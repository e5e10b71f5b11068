"""`python -m wesemu.cli`: the command line of exactly this installation."""

import os
import sys

import wesemu


def _drop_current_directory() -> None:
    """Keep modules of the current directory from being imported, as `python -P` does; except
    where wesemu itself was found there."""
    here = os.getcwd()  # noqa: PTH109 - pathlib could come from there
    own = os.path.dirname(os.path.dirname(wesemu.__file__))  # noqa: PTH120
    if sys.path[:1] == [here] and own != here:
        del sys.path[0]


_drop_current_directory()

from wesemu.cli import main  # noqa: E402

main()
