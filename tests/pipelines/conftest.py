"""Run the pipelines with Snakemake's command line, without the server."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.preloaded_program import PreloadedProgram

ROOT = Path(__file__).resolve().parents[2]


class Workflow:
    """A workflow that runs in its own directory."""

    def __init__(self, name: str, directory: Path, snakemake: PreloadedProgram) -> None:
        self.directory = directory
        self._snakemake = snakemake
        self.snakefile = ROOT / "pipelines" / name / "workflow" / "Snakefile"

    def run(
        self, config: dict[str, object], *more: str, cores: int = 2
    ) -> subprocess.CompletedProcess[str]:
        self.directory.mkdir(parents=True, exist_ok=True)
        file = self.directory / "config.yaml"
        file.write_text(yaml.safe_dump(config))
        argv = [
            "-s",
            str(self.snakefile),
            "--directory",
            str(self.directory),
            "--configfile",
            str(file),
        ]
        argv += ["-c", str(cores), "--latency-wait", "0", *more]
        path = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
        environment["XDG_CACHE_HOME"] = str(self.directory.with_name(".cache"))
        if "PYTHONPATH" in os.environ:  # its modules come first, so nothing may be imported before
            cold = [sys.executable, "-m", "snakemake", *argv]
            return subprocess.run(
                cold, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
            )
        return self._snakemake.run(argv, cwd=ROOT, env=environment)

    def succeed(self, config: dict[str, object], *, cores: int = 2) -> Path:
        """Run the workflow. Return the folder of the results."""
        done = self.run(config, cores=cores)
        logs = "".join(log.read_text() for log in self.directory.glob("logs/**/*.log"))
        assert done.returncode == 0, done.stderr + logs
        return self.directory / "results"

    def read(self, name: str) -> str:
        return (self.directory / name).read_text()


@pytest.fixture
def workflow(tmp_path: Path, plain_snakemake: PreloadedProgram) -> Callable[..., Workflow]:
    """Return a function: `workflow("wgs")`, or `workflow("wgs", "folder")` for a second one."""

    def make(name: str, folder: str = "run") -> Workflow:
        return Workflow(name, tmp_path / folder, plain_snakemake)

    return make


@pytest.fixture(scope="session")
def shared_workflow(
    tmp_path_factory: pytest.TempPathFactory, plain_snakemake: PreloadedProgram
) -> Callable[[str], Workflow]:
    """Like `workflow`, for a run whose results several tests use."""
    return lambda name: Workflow(name, tmp_path_factory.mktemp(name) / "run", plain_snakemake)


@pytest.fixture(scope="session")
def fixture_folder() -> Path:
    """Return the folder of the small fixture with a known truth."""
    return ROOT / "testdata" / "diploid"


@pytest.fixture
def config(fixture_folder: Path) -> dict[str, object]:
    return lanes_of(fixture_folder)


@pytest.fixture
def copied_lane(config: dict[str, Any], tmp_path: Path) -> dict[str, str]:
    """Return the lane of `config`, copied to other files."""
    lane = {}
    for mate, path in config["reads"][0].items():
        lane[mate] = str(tmp_path / f"lane2_{Path(path).name}")
        shutil.copy(path, lane[mate])
    return lane


@pytest.fixture
def real_config(shared_data: Path) -> dict[str, object]:
    """Return the configuration of 10,507 real pairs of HG002 on 1.1 Mb of chr20."""
    return lanes_of(shared_data / "hg002_chr20_10mb") | {"sample": "HG002"}


def lanes_of(folder: Path) -> dict[str, object]:
    first, second = (str(folder / f"reads_{mate}.fq.gz") for mate in (1, 2))
    return {
        "reads": [{"first": first, "second": second}],
        "reference": str(folder / "reference.fa"),
    }
