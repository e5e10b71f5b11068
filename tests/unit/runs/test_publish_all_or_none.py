"""Publishing: all results or none, and no files outside the run."""

from pathlib import Path

import pytest

from wesemu.errors import EngineFault
from wesemu.runs.ports import Publication
from wesemu.runs.publishing import LocalPublisher
from wesemu.runs.run_directory import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "run")
    workspace.work.mkdir(parents=True)
    return workspace


def wanted(workspace: Workspace, name: str, target: Path | None = None) -> Publication:
    path = workspace.work / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"new {name}")
    return Publication(name, name, target, target and f"oss://b/{target.name}")


def files_below(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_target_that_cannot_be_replaced_undoes_the_others(
    workspace: Workspace, tmp_path: Path
) -> None:
    bucket = tmp_path / "bucket"
    (bucket / "third").mkdir(parents=True)
    (bucket / "first").write_text("old")
    names = ("first", "second", "third")
    publications = [wanted(workspace, name, bucket / name) for name in names]
    with pytest.raises(IsADirectoryError):
        LocalPublisher().publish_blocking(workspace, publications)
    assert files_below(bucket) == {"first": "old"}
    assert files_below(workspace.outputs) == {}


def test_the_same_result_may_be_named_twice_and_published_again(
    workspace: Workspace, tmp_path: Path
) -> None:
    bucket = tmp_path / "bucket"
    publications = [wanted(workspace, "first", bucket / "first")] * 2
    for _ in range(2):
        [output] = LocalPublisher().publish_blocking(workspace, publications)
        assert output.size == len("new first")
        assert files_below(bucket) == {"first": "new first"}
        assert files_below(workspace.outputs) == {"first": "new first"}


@pytest.mark.parametrize("optional", [True, False])
def test_a_link_that_leads_out_is_named_and_nothing_is_published(
    workspace: Workspace, tmp_path: Path, optional: bool
) -> None:
    good = wanted(workspace, "good")
    (tmp_path / "secret").write_text("secret")
    (workspace.work / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(EngineFault, match="the output link cannot be published: it is a link that"):
        LocalPublisher().publish_blocking(
            workspace, [good, Publication("link", "link", optional=optional)]
        )
    assert files_below(workspace.outputs) == {}
