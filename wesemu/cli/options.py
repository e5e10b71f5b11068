"""Flags that several verbs share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Place(StrEnum):
    """Where a run is carried out: docs/gpu.md."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


Data = Annotated[
    Path | None,
    typer.Option("--data", help="The data directory.", show_default="./.wesemu", metavar="DIR"),
]
"""None means: what the settings say."""

Server = Annotated[
    str,
    typer.Option("--server", envvar="WESEMU_SERVER", help="The server's address.", metavar="URL"),
]

Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="WESEMU_TOKEN",
        help="The bearer token that the server asks for.",
        metavar="TOKEN",
        show_default=False,
    ),
]

DEFAULT_SERVER = "http://127.0.0.1:8070"

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

JobName = Annotated[
    str,
    typer.Argument(
        metavar="JOB", help="A job's name, a run's id, or the beginning of one.", show_default=False
    ),
]
