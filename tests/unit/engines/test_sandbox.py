"""The choice of a sandbox and its rules; the e2e tests attack a real one."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from wesemu.engines import isolation
from wesemu.engines.sandbox import choose_sandbox, enter_sandbox
from wesemu.errors import EngineFault
from wesemu.runs.run_directory import Workspace

needs_landlock = pytest.mark.skipif(isolation.landlock_version() == 0, reason="needs Landlock")


def in_child(attempt: Callable[[], object]) -> bool:
    """Whether `attempt` goes well in a child process that it may restrict."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            attempt()
            code = 0
        except OSError:
            code = 2
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 2)
    return code == 0


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "data" / "runs" / "one").mkdir(parents=True)
    (tmp_path / "data" / "buckets").mkdir()
    (tmp_path / "data" / "buckets" / "reads").write_text("x")
    (tmp_path / "beside").write_text("x")
    return Workspace(tmp_path / "data" / "runs" / "one")


@needs_landlock
@pytest.mark.parametrize(
    ("path", "change", "allowed"),
    [
        ("data/buckets/reads", {}, False),
        ("data/buckets/reads", {"readable": ["data/buckets"]}, True),
        ("data/runs/one/work/new", {}, True),
        ("data/runs/one/new", {}, False),
        ("beside", {}, False),
        ("beside", {"writable": ["beside"]}, True),
    ],
)
def test_files(
    workspace: Workspace, tmp_path: Path, path: str, change: dict[str, list[str]], allowed: bool
) -> None:
    given = {name: [tmp_path / each for each in paths] for name, paths in change.items()}
    sandbox, _ = choose_sandbox("landlock", tmp_path / "data", **given)  # type: ignore[arg-type]
    assert sandbox is not None
    mode = "r" if "readable" in change or path == "data/buckets/reads" else "a"

    def attempt() -> None:
        enter_sandbox(sandbox, workspace)
        with (tmp_path / path).open(mode):
            pass

    assert in_child(attempt) is allowed


@needs_landlock
def test_what_lies_beside_the_data_is_read(workspace: Workspace, tmp_path: Path) -> None:
    sandbox, _ = choose_sandbox("auto", tmp_path / "data")
    assert sandbox is not None

    def attempt() -> None:
        enter_sandbox(sandbox, workspace)
        (tmp_path / "beside").read_text()

    assert in_child(attempt)


@needs_landlock
def test_credentials_in_the_home_folder_are_not_read(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    names = (
        ".ssh/id",
        ".s3cfg",
        ".boto",
        ".mc/config.json",
        ".config/rclone/rclone.conf",
        ".vimrc",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    sandbox, _ = choose_sandbox("auto", tmp_path / "data")
    assert sandbox is not None

    def readable(name: str) -> bool:
        def attempt() -> None:
            enter_sandbox(sandbox, workspace)
            if not (tmp_path / name).read_text():  # an empty file may cover it
                raise OSError

        return in_child(attempt)

    assert [name for name in names if readable(name)] == [".vimrc"]


@needs_landlock
def test_a_link_to_the_data_leads_nowhere(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "data")
    sandbox, _ = choose_sandbox("auto", tmp_path / "link")
    assert sandbox is not None

    def attempt() -> None:
        enter_sandbox(sandbox, workspace)
        (tmp_path / "link" / "buckets" / "reads").read_text()

    assert not in_child(attempt)


@needs_landlock
@pytest.mark.skipif(not isolation.namespace_allowed("mounts"), reason="needs mount namespaces")
def test_a_home_in_tmp_does_not_open_it(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/tmp")
    sandbox, _ = choose_sandbox("auto", tmp_path / "data")
    assert sandbox is not None
    file = Path("/tmp") / f"wesemu-test-{uuid.uuid4()}"

    def attempt() -> None:
        enter_sandbox(sandbox, workspace)
        file.write_text("x")

    assert in_child(attempt)
    assert not file.exists()
    assert (workspace.root / "tmp" / file.name).read_text() == "x"


def test_none_is_none(tmp_path: Path) -> None:
    assert choose_sandbox("none", tmp_path) == (None, 'none: engine.sandbox = "none"')
    with pytest.raises(EngineFault, match=r"engine\.network"):
        choose_sandbox("none", tmp_path, network=False)


def test_a_kernel_without_landlock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "landlock_version", lambda: 0)
    sandbox, kind = choose_sandbox("auto", tmp_path)
    assert sandbox is None
    assert "no Landlock" in kind
    for asked in ({"mode": "landlock"}, {"mode": "auto", "network": False}):
        with pytest.raises(EngineFault, match="Landlock"):
            choose_sandbox(data=tmp_path, **asked)  # type: ignore[arg-type]


def test_bubblewrap_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineFault, match="install bubblewrap"):
        choose_sandbox("bubblewrap", tmp_path)


def test_bubblewrap_that_does_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: No permissions' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    with pytest.raises(EngineFault, match="does not work here: bwrap: No permissions"):
        choose_sandbox("bubblewrap", tmp_path)
