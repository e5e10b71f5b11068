"""WDL tasks with a container tool that cannot pull images."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.library_engines import needs_miniwdl
from support.live_server import LiveServer, live_server

pytestmark = needs_miniwdl

TOOL = """#!/bin/sh
# Answers as podman and docker do without a network. Images that it has are in $TOOL_IMAGES.
echo "$(basename "$0") $*" >> "$TOOL_LOG"
case "$1" in
  info | version | --version) echo "stand-in 1.0" ;;
  image) for name in $TOOL_IMAGES; do [ "$name" = "$3" ] && exit 0; done; exit 1 ;;
  pull) echo "Error: initializing source $2: lookup registry: no such host" >&2; exit 125 ;;
  *) echo "stand-in: cannot $1" >&2; exit 125 ;;
esac
"""
WORKFLOW = """
    version 1.1
    workflow both {
      input { File words }
      call without { input: words = words }
      call named { input: words = words }
      output { File a = without.made  File b = named.made }
    }
    task without {
      input { File words }
      command <<< cp -a ~{words} copy; tar cf all.tar -C $(dirname ~{words}) $(basename ~{words})
        tar xfO all.tar > made.txt; test ! -L copy >>>
      output { File made = "made.txt" }
    }
    task named {
      input { File words  String image = "quay.io/biocontainers/samtools:1.20" }
      command <<< wc -l < ~{words} > made.txt >>>
      output { File made = "made.txt" }
      runtime { container: image }
    }
"""
DEFAULT_IMAGE = """
    version 1.1
    task t {
      command <<< true >>>
      output { Int x = 1 }
    }
"""

Start = Callable[..., LiveServer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A server whose PATH begins with a stand-in."""
    tools = tmp_path / "tools"
    tools.mkdir()
    with ExitStack() as servers:

        def begin(tool: str, containers: str) -> LiveServer:
            (tools / tool).write_text(TOOL)
            (tools / tool).chmod(0o755)
            return servers.enter_context(
                live_server(
                    tmp_path,
                    PATH=f"{tools}{os.pathsep}{os.environ['PATH']}",
                    TOOL_LOG=str(tmp_path / "log"),
                    TOOL_IMAGES="",
                    WESEMU_ENGINE__WDL__CONTAINERS=containers,
                )
            )

        yield begin


@pytest.mark.parametrize("tool", ["podman", "docker"])
def test_without_the_image_tasks_run_on_this_machine_with_a_note(
    start: Start, tool: str, tmp_path: Path
) -> None:
    server = start(tool, "auto")
    params = {"words": "words.txt"}
    run = server.run("WDL", WORKFLOW, {"words.txt": "one\ntwo\n"}, params=params)
    assert run.state == "COMPLETE", run.error
    assert run.text("out/a/made.txt") == "one\ntwo\n"
    assert run.text("out/b/made.txt").strip() == "2"
    assert "samtools:1.20 is not available" in run.log("stderr")
    calls = (tmp_path / "log").read_text()
    assert f"{tool} pull quay.io/biocontainers/samtools:1.20" in calls or tool == "docker"
    assert "ubuntu" not in calls


def test_never_asks_for_no_image(start: Start, tmp_path: Path) -> None:
    server = start("podman", "never")
    params = {"words": "words.txt"}
    run = server.run("WDL", WORKFLOW, {"words.txt": "one\n"}, params=params)
    assert run.state == "COMPLETE", run.error
    assert "pull" not in (tmp_path / "log").read_text()


def test_always_fails_with_the_reason(start: Start) -> None:
    run = start("podman", "always").run("WDL", DEFAULT_IMAGE)
    assert run.state == "EXECUTOR_ERROR"
    assert "image ubuntu:22.04 is not available: Error: initializing source" in run.error["message"]
    assert "no such host" in run.error["message"]
