"""Container tools of this machine."""

import shutil
import subprocess
from typing import Literal

ContainerTool = Literal["docker", "podman", "apptainer"]

_QUESTIONS: dict[ContainerTool, list[str]] = {
    "docker": ["docker", "info"],
    "podman": ["podman", "info"],
    "apptainer": ["apptainer", "version"],
}
_PATIENCE_SECONDS = 5.0


def find_container_tool() -> ContainerTool | None:
    """The first of docker, podman and apptainer that is on PATH and answers. Blocks.

    A docker client whose daemon does not run is no container tool.
    """
    return next((tool for tool, question in _QUESTIONS.items() if _answers(question)), None)


def _answers(question: list[str]) -> bool:
    if shutil.which(question[0]) is None:
        return False
    try:
        done = subprocess.run(
            question,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
