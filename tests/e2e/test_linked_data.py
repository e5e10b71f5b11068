"""A data directory that is a link to another disk: runs of all engines, in the sandbox."""

from collections.abc import Iterator

import pytest
from support.library_engines import needs_cwltool, needs_miniwdl
from support.live_server import LiveServer, live_server

WORKFLOWS = {
    "SMK": "rule all:\n    output: 'said.txt'\n    shell: 'echo hello > {output}'\n",
    "CWL": (
        "cwlVersion: v1.2\nclass: CommandLineTool\nbaseCommand: [echo, hello]\ninputs: []\n"
        "outputs: {said: stdout}\nstdout: said.txt\n"
    ),
    "WDL": (
        "version 1.1\n"
        "task say { command { echo hello > said.txt } output { File said = 'said.txt' } }\n"
        "workflow all { call say output { File said = say.said } }\n"
    ),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("linked")
    (folder / "disk").mkdir()
    (folder / "data").symlink_to(folder / "disk")
    with live_server(folder) as server:
        yield server


@pytest.mark.parametrize(
    "kind",
    ["SMK", pytest.param("CWL", marks=needs_cwltool), pytest.param("WDL", marks=needs_miniwdl)],
)
def test_runs_of_a_linked_data_directory_have_their_outputs(server: LiveServer, kind: str) -> None:
    run = server.run(kind, WORKFLOWS[kind])
    assert run.state == "COMPLETE", run.error
    [name] = [name for name in run.outputs if name.endswith("said.txt")]
    assert run.content(name) == b"hello\n"
