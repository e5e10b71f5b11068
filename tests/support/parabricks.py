"""Stand-ins for pbrun, nvidia-smi, docker and apptainer on PATH (tests/doubles)."""

import json
import os
import shlex
import sys
from pathlib import Path

import pytest

DOUBLES = Path(__file__).parents[1] / "doubles"
IMAGE = "nvcr.io/nvidia/clara/clara-parabricks:4.7.1-1"

_SCRIPTS = {
    "pbrun": ["pbrun.py"],
    "nvidia-smi": ["nvidia_smi.py"],
    "docker": ["containers.py", "docker"],
    "apptainer": ["containers.py", "apptainer"],
}


class Doubles:
    """A folder of stand-ins, first on PATH. `calls` are the command lines of pbrun."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.containers = folder / "containers"
        self.containers.mkdir(parents=True)
        self.image = folder / "parabricks_4.7.1-1.sif"
        self.image.touch()
        self._calls = folder / "calls.jsonl"
        self._monkeypatch = monkeypatch
        self.set("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        self.set("PBRUN_DOUBLE_CALLS", str(self._calls))
        self.set("DOCKER_DOUBLE", str(self.containers))
        self.set("DOCKER_DOUBLE_IMAGES", IMAGE)
        self.install("nvidia-smi")

    def install(self, *names: str) -> None:
        for name in names:
            script, *arguments = _SCRIPTS[name]
            command = shlex.join([sys.executable, "-P", str(DOUBLES / script), *arguments])
            path = self.folder / name
            path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            path.chmod(0o755)

    def set(self, name: str, value: str) -> None:
        self._monkeypatch.setenv(name, value)

    @property
    def calls(self) -> list[dict[str, list[str]]]:
        if not self._calls.exists():
            return []
        return [json.loads(line) for line in self._calls.read_text().splitlines()]
