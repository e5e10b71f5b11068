"""`python -m wesemu.cli`: the command line of this installation."""

import os
import sys

import wesemu


def _drop_current_directory() -> None:
    """Remove the current directory from sys.path, as `python -P` does.

    Keep it if wesemu itself was imported from there.
    """
    try:
        here = os.getcwd()  # noqa: PTH109 - a file pathlib.py could be there
    except FileNotFoundError:  # it has been removed
        return
    own = os.path.dirname(os.path.dirname(wesemu.__file__))  # noqa: PTH120
    if sys.path[:1] == [here] and own != here:
        del sys.path[0]


_drop_current_directory()

from wesemu.cli import main  # noqa: E402

main()
