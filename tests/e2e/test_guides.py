"""The guides work as they are written: the commands of docs/guides and docs/operating are executed.

The blocks of `bash` are executed one after the other in one shell. A block of `text` after one is
its output, with `…` for anything. A block with a title is a file. `wesemu serve` without settings
is one server for all pages; with settings it is started with a copy of the buckets. NOT_HERE lists
the commands that are not executed. Without ALL_GUIDES=1 only the first guide is tried.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from support.live_server import LiveServer, live_server
from support.ports import reserve_port

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted([*DOCS.glob("guides/*.md"), *DOCS.glob("operating/*.md"), DOCS / "events.md"])
INSTALLS = "installs packages; the stages readme and debian13 of CI install"
DOCKER = "needs docker and an image"
GPU = "needs an NVIDIA GPU; tests/gpu"
SLURM = "needs a cluster; tests/slurm"
SYSTEM = "changes the machine; tests/e2e/test_operating.py tries the files"
# page: how blocks begin that are not executed, and why
NOT_HERE = {
    "guides/first-mapping.md": {
        "python3 -m venv": INSTALLS,
        ". .venv/bin/activate": INSTALLS,
    },
    "guides/ags-client.md": {"pip install": INSTALLS},
    "guides/pytest.md": {"pip install": INSTALLS},
    "guides/container.md": {"docker": DOCKER, "mkdir -p data && sudo": DOCKER},
    "guides/gpu-box.md": {"nvidia-smi": GPU, "wesemu demo": GPU, "wesemu run": GPU},
    "guides/slurm.md": {
        "sinfo": SLURM,
        "/shared/wesemu/venv/bin/wesemu serve": SLURM,
        "curl": SLURM,
        "tests/slurm/slurm-up.sh": SLURM,
    },
    "guides/own-workflow.md": {"pip install": INSTALLS},
    "operating/service.md": {"useradd": SYSTEM, "systemctl": SYSTEM},
    "operating/nginx.md": {"install -m 0644": SYSTEM},
    "operating/upgrade.md": {"systemctl": SYSTEM},
}
FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SERVE = re.compile(r"(?:^|\s)wesemu serve\b")


class Block(NamedTuple):
    language: str
    title: str
    text: str

    def is_executed(self, page: str) -> bool:
        return self.language == "bash" and not self.text.startswith(tuple(NOT_HERE.get(page, {})))


FIRST = "guides/first-mapping.md"


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(page.read_text(encoding="utf-8"))]


def name(page: Path) -> str:
    return str(page.relative_to(DOCS))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("guides")) as server:
        yield server


@pytest.fixture
def ports() -> Iterator[ExitStack]:
    with ExitStack() as ports:
        yield ports


@pytest.fixture
def empty(server: LiveServer) -> LiveServer:
    """The server without runs, buckets and references."""
    control(server, "POST", "reset", {"buckets": True})
    for reference in control(server, "GET", "references")["references"]:
        control(server, "DELETE", f"references/{reference['name']}")
    return server


def control(server: LiveServer, method: str, path: str, body: object = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.home}/_wesemu/{path}", data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def script(page: Path, server: LiveServer, folder: Path, ports: ExitStack) -> str:
    """Write the files of a page. Return its commands, which print the number of each block.

    The ports of its servers are reserved until `ports` closes.
    """
    port = server.home.rpartition(":")[2]
    lines = ["set -eu", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    lines += [f"export WESEMU_SERVER={server.home}", f"ln -s {server.data} .wesemu"]
    for number, block in enumerate(blocks(page)):
        if block.title:
            path = folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text.replace("8070", port), encoding="utf-8")
        elif block.is_executed(name(page)):
            lines.append(f"printf '\\n@@{number}\\n'")
            settings = block.text != "wesemu serve\n" or (folder / "wesemu.toml").exists()
            if SERVE.search(block.text) and settings:
                port = str(ports.enter_context(reserve_port()))
                lines += own_server(block.text, port, f"data-{number}")
            elif block.text != "wesemu serve\n":
                lines.append(block.text.replace("8070", port))
    return "\n".join(lines)


def own_server(command: str, port: str, data: str) -> list[str]:
    """Return the commands that start a server with a copy of the data that is there."""
    return [
        'if [ -n "${OWN_SERVER:-}" ]; then kill $OWN_SERVER; wait $OWN_SERVER || true; fi',
        f"mkdir {data}",
        f"for each in buckets references; do [ ! -e .wesemu/$each ] || "
        f"cp -r .wesemu/$each {data}/; done",
        f"ln -sfn {data} .wesemu",
        f"WESEMU_DATA=$PWD/{data} WESEMU_PORT={port} {command.rstrip()} >{data}.log 2>&1 &",
        "OWN_SERVER=$!",
        f"until (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; do "
        f"kill -0 $OWN_SERVER || {{ cat {data}.log; exit 1; }}; sleep 0.05; done",
        f"export WESEMU_SERVER=http://127.0.0.1:{port}",
    ]


def missing_lines(expected: str, output: str) -> list[str]:
    """Return the expected lines that the output does not have in this order."""
    lines = iter([line.strip() for line in output.splitlines()])
    patterns = [
        ".*".join(map(re.escape, line.strip().split("…"))) for line in expected.splitlines()
    ]
    return [
        pattern
        for pattern in patterns
        if not any(re.fullmatch(pattern, line) is not None for line in lines)
    ]


ALL_OR_FIRST = [
    pytest.param(
        page,
        marks=pytest.mark.skipif(
            name(page) != FIRST and not os.environ.get("ALL_GUIDES"),
            reason="takes minutes with all guides; ALL_GUIDES=1 tries them",
        ),
    )
    for page in PAGES
]


@pytest.mark.parametrize("page", ALL_OR_FIRST, ids=name)
def test_a_guide_works_as_it_is_written(
    page: Path, empty: LiveServer, tmp_path: Path, ports: ExitStack
) -> None:
    commands = script(page, empty, tmp_path, ports)
    if "curl " in commands and not shutil.which("curl"):
        pytest.skip("curl is not installed")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("WESEMU_", "PYTEST_"))
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", commands],
        cwd=tmp_path,
        env=kept | {"PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    outputs = dict(re.findall(r"^@@(\d+)\n(.*?)(?=^@@|\Z)", done.stdout, re.MULTILINE | re.DOTALL))
    all_blocks = blocks(page)
    for number, block in enumerate(all_blocks):
        if block.language == "text" and str(number - 1) in outputs:
            output = outputs[str(number - 1)]
            assert missing_lines(block.text, output) == [], output


@pytest.mark.parametrize("page", NOT_HERE)
def test_the_list_of_other_commands_has_only_commands_of_the_pages(page: str) -> None:
    commands = [block.text for block in blocks(DOCS / page) if block.language == "bash"]
    unused = [each for each in NOT_HERE[page] if not any(c.startswith(each) for c in commands)]
    assert unused == []
