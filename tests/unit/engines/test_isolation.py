"""The private /tmp, tried on a folder in place of the machine's."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from wesemu.engines import isolation

pytestmark = pytest.mark.skipif(
    not isolation.namespace_allowed("mounts"),
    reason="this user may not have mount namespaces",
)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`machine/tmp` is what gets replaced, by `own`."""
    machine = tmp_path / "machine"
    for folder in ("tmp/data/runs/one/work", "tmp/data/runs/two", "tmp/tools", "own", "run"):
        (machine / folder).mkdir(parents=True)
    for file in ("tmp/other", "tmp/data/index", "tmp/data/reference", "tmp/tools/samtools"):
        (machine / file).write_text(file)
    monkeypatch.setattr(isolation, "TEMPORARY", (machine / "tmp",))
    return machine


def replaced(machine: Path, look: Callable[[], str], **changes: list[Path]) -> str:
    """What `look` finds in a process with a /tmp of its own, or the name of its error."""
    given = {"shown": [], "writable": [], "hidden": []} | changes
    hear, tell = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            isolation.replace_temporary(machine / "own", **given)
            os.write(tell, look().encode())
        except OSError as error:
            os.write(tell, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(tell)
    with os.fdopen(hear) as answer:
        found = answer.read()
    os.waitpid(pid, 0)
    return found


def names(folder: Path) -> str:
    return " ".join(sorted(path.name for path in folder.iterdir()))


def test_what_is_written_lies_in_the_folder(machine: Path) -> None:
    def write() -> str:
        (machine / "tmp" / "new").write_text("x")
        return names(machine / "tmp")

    assert replaced(machine, write) == "new"
    assert names(machine / "own") == "new"
    assert "new" not in names(machine / "tmp")
    assert replaced(machine, lambda: names(machine / "tmp")) == "new"


def test_what_is_shown_can_be_read_only(machine: Path) -> None:
    tools = machine / "tmp" / "tools"
    assert replaced(machine, lambda: names(machine / "tmp"), shown=[tools]) == "tools"
    assert replaced(machine, lambda: names(tools), shown=[tools]) == "samtools"
    assert replaced(machine, lambda: (tools / "new").mkdir() or "", shown=[tools]) == "OSError"
    file = machine / "tmp" / "other"
    assert replaced(machine, file.read_text, shown=[file]) == "tmp/other"


def test_what_is_writable_is_the_machine_s(machine: Path) -> None:
    tools = machine / "tmp" / "tools"
    assert replaced(machine, lambda: str((tools / "new").write_text("x")), writable=[tools]) == "1"
    assert (tools / "new").exists()


def test_of_what_is_hidden_only_what_is_shown_is_left(machine: Path) -> None:
    data = machine / "tmp" / "data"
    given = {
        "hidden": [data],
        "shown": [data / "runs" / "one", data / "reference"],
        "writable": [data / "runs" / "one" / "work"],
    }
    assert replaced(machine, lambda: names(data), **given) == "reference runs"
    assert replaced(machine, lambda: names(data / "runs"), **given) == "one"
    assert replaced(machine, (data / "reference").read_text, **given) == "tmp/data/reference"
    assert replaced(machine, lambda: (data / "new").mkdir() or "", **given) == "OSError"
    run = data / "runs" / "one"
    assert replaced(machine, lambda: (run / "new").mkdir() or "", **given) == "OSError"
    assert replaced(machine, lambda: (run / "work" / "new").mkdir() or "made", **given) == "made"
    assert (run / "work" / "new").exists()


def test_a_hidden_file_is_empty(machine: Path) -> None:
    secret = machine / "tmp" / "tools" / "samtools"
    given = {"hidden": [secret], "shown": [machine / "tmp" / "tools"]}
    assert replaced(machine, lambda: f"<{secret.read_text()}>", **given) == "<>"


def test_a_link_to_what_is_shown_stays(machine: Path) -> None:
    link = machine / "tmp" / "link"
    link.symlink_to("tools")
    for _ in range(2):  # its folder has the link already, at the second time
        assert replaced(machine, lambda: names(link), shown=[link]) == "samtools"


def test_a_link_that_a_workflow_left_is_not_followed(machine: Path) -> None:
    """It stands where the tools belong, and leads elsewhere: the process goes no further."""
    elsewhere = machine / "run"
    (machine / "own" / "tools").symlink_to(elsewhere)
    tools = machine / "tmp" / "tools"
    assert replaced(machine, lambda: names(elsewhere), shown=[tools]) == "OSError"


def test_a_folder_that_is_asked_for_as_a_whole_is_not_replaced(machine: Path) -> None:
    found = replaced(machine, lambda: names(machine / "tmp"), writable=[machine / "tmp"])
    assert found == "data other tools"
