"""`wesemu submit` and the verbs that read its runs, against the whole server."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from aiohttp import web
from api.test_verbs import wesemu

from wesemu.cli import submit
from wesemu.cli.output import ExitStatus

__all__ = ["wesemu"]

HELLO = [
    {"task": "greet", "stderr": "a tool's words\n"},
    {"write": "out/hello.txt", "text": "hello"},
]


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    """Return a folder in Snakemake's layout, whose name is `greeting`."""
    folder = tmp_path / "greeting"
    for name in ("workflow/Snakefile", "workflow/rules/a.smk", "config/config.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("# nothing\n")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref")
    return folder


async def submitted(wesemu, *arguments: object) -> str:
    """Submit, wait for the end, and return the run's id."""
    script = f"script={json.dumps(HELLO)}"
    status, out, err = await wesemu("submit", *map(str, arguments), "--param", script, "--watch")
    assert status == 0, err
    return str(json.loads(out)["run_id"])


def attached(settings, run_id: str) -> set[str]:
    folder = settings.data / "runs" / run_id / "attachments"
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


async def test_a_folder_is_sent_without_hidden_files(wesemu, workflow, settings) -> None:
    run_id = await submitted(wesemu, workflow)
    assert attached(settings, run_id) == {
        "workflow/Snakefile",
        "workflow/rules/a.smk",
        "config/config.yaml",
    }


async def test_a_file_is_sent_with_its_attachments(wesemu, workflow, settings, tmp_path) -> None:
    other = tmp_path / "samples.tsv"
    other.write_text("a\n")
    main = workflow / "workflow" / "Snakefile"
    rules = workflow / "workflow" / "rules"
    run_id = await submitted(wesemu, main, "--attach", rules, "--attach", other)
    assert attached(settings, run_id) == {"Snakefile", "rules/a.smk", "samples.tsv"}


async def test_own_workflows_are_listed_by_name(wesemu, workflow) -> None:
    run_id = await submitted(wesemu, workflow)
    _, out, _ = await wesemu("list")
    assert "| greeting-" in out
    assert all(len(line) <= 80 for line in out.splitlines())
    _, out, _ = await wesemu("list", "--json")
    [run] = json.loads(out)
    assert (run["run_id"], run["workflow"]) == (run_id, "greeting")
    assert (await wesemu("get", run["name"]))[0] == 0


async def test_parameters_come_from_a_file_and_from_flags(wesemu, workflow, tmp_path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("script: []\nsize: 3\nname: x\n")
    main = workflow / "workflow" / "Snakefile"
    flags = ("--params", str(file), "--param", "size=4", "--param", "text=a=b", "--tag", "k=v")
    _, out, _ = await wesemu("submit", str(main), *flags)
    _, out, _ = await wesemu("get", json.loads(out)["run_id"], "--json")
    request = json.loads(out)["wes"]["request"]
    assert request["workflow_params"] == {"script": [], "size": 4, "name": "x", "text": "a=b"}
    assert request["tags"]["k"] == "v"


async def test_wait_ends_with_the_state(wesemu, workflow) -> None:
    run_id = await submitted(wesemu, workflow)
    assert await wesemu("wait", "@last") == (0, "COMPLETE\n", "")
    assert (await wesemu("wait", run_id, "--for", "running"))[:2] == (0, "COMPLETE\n")
    status, out, err = await wesemu("wait", run_id, "--for", "canceled")
    assert (status, out) == (ExitStatus.FAILED, "COMPLETE\n")
    assert "it has ended" in err


async def test_wait_gives_up_at_its_timeout(wesemu, workflow, engine) -> None:
    script = json.dumps([{"wait": "gate"}])
    _, out, _ = await wesemu("submit", str(workflow), "--param", f"script={script}")
    run_id = json.loads(out)["run_id"]
    status, _, err = await wesemu("wait", run_id, "--timeout", "0s")
    assert (status, "not COMPLETE after 0s" in err) == (ExitStatus.FAILED, True)
    engine.release("gate")
    assert (await wesemu("wait", run_id))[0] == 0


async def test_tasks_and_the_stderr_of_one_that_succeeded(wesemu, workflow) -> None:
    run_id = await submitted(wesemu, workflow)
    _, out, _ = await wesemu("tasks", run_id)
    assert "| greet | COMPLETE |" in out
    assert all(len(line) <= 80 for line in out.splitlines())
    _, out, _ = await wesemu("tasks", run_id, "--json")
    assert [task["name"] for task in json.loads(out)] == ["greet"]
    assert await wesemu("logs", run_id, "--task", "greet") == (0, "a tool's words\n", "")
    status, _, err = await wesemu("logs", run_id, "--task", "nobody")
    assert (status, "its tasks: greet" in err) == (ExitStatus.REFUSED, True)
    assert (await wesemu("logs", run_id, "--task", "greet", "--json"))[0] == ExitStatus.USAGE


async def test_outputs_are_listed_and_downloaded(wesemu, workflow, tmp_path) -> None:
    run_id = await submitted(wesemu, workflow)
    _, out, _ = await wesemu("outputs", run_id)
    assert "out/hello.txt" in out
    _, out, _ = await wesemu("outputs", run_id, "--json")
    assert json.loads(out)["out/hello.txt"]["size"] == 5
    folder = tmp_path / "new" / "folder"
    status, out, _ = await wesemu("outputs", run_id, "--download", str(folder))
    assert (status, Path(out.strip())) == (0, folder / "out" / "hello.txt")
    assert (folder / "out" / "hello.txt").read_text() == "hello"


async def test_a_run_without_results_says_so(wesemu, workflow) -> None:
    _, _, err = await wesemu("submit", str(workflow), "--param", "script=[]", "--watch")
    assert "the run has no results" in err


async def test_a_dry_run_shows_the_tasks_and_sends_no_run(wesemu, workflow) -> None:
    script = f"script={json.dumps(HELLO)}"
    dry = ("--param", script, "--engine-parameter", "dry_run=true", "--watch")
    assert await wesemu("submit", str(workflow), *dry) == (0, "", "will run: greet\n")
    assert "no runs yet" in (await wesemu("list"))[2]


async def test_a_download_replaces_no_other_files(wesemu, workflow, tmp_path) -> None:
    run_id = await submitted(wesemu, workflow)
    file = tmp_path / "out" / "hello.txt"
    verb = ("outputs", run_id, "--download", str(tmp_path))
    (tmp_path / "file").touch()
    status, _, err = await wesemu(*verb[:3], str(tmp_path / "file"))
    assert (status, "file is a file; name a folder" in err) == (ExitStatus.REFUSED, True)
    assert (await wesemu(*verb))[:2] == (0, f"{file}\n")
    assert (await wesemu(*verb))[:2] == (0, f"{file}\n")  # its content is the result's
    file.write_text("my own")
    status, out, err = await wesemu(*verb)
    assert (status, out, file.read_text()) == (ExitStatus.MACHINE, "", "my own")
    assert "out/hello.txt exists already" in err
    assert "--overwrite" in err
    assert (await wesemu(*verb, "--overwrite"))[0] == 0
    assert file.read_text() == "hello"


async def test_a_download_does_not_repeat_the_name_of_its_folder(
    wesemu, workflow, tmp_path
) -> None:
    run_id = await submitted(wesemu, workflow)
    folder = tmp_path / "out"
    _, out, _ = await wesemu("outputs", run_id, "--download", str(folder))
    assert out == f"{folder / 'hello.txt'}\n"
    assert [path.name for path in folder.iterdir()] == ["hello.txt"]


async def test_what_destroys_takes_complete_names_only(wesemu, workflow) -> None:
    run_id = await submitted(wesemu, workflow)
    for text in ("@last", run_id[:8], "greeting"):
        assert (await wesemu("remove", text))[0] == ExitStatus.REFUSED
    assert (await wesemu("get", run_id[:8]))[0] == 0
    assert (await wesemu("remove", run_id))[0] == 0
    status, _, err = await wesemu("get", "@last")
    assert (status, "no runs yet" in err) == (ExitStatus.REFUSED, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere.smk",), "there is no file or folder nowhere.smk"),
        ((".",), "has no workflow"),
        (("github:x",), "github:OWNER/REPO"),
        (("Snakefile", "--param", "x"), "--param: 'x' is not KEY=VALUE"),
        (("Snakefile", "--tag", "a=1", "--tag", "a=2"), "--tag: 'a' is given twice"),
        (("Snakefile", "--params", "twice.yaml"), "the key 'c' is given twice"),
        (("Snakefile", "--attach", "nowhere"), "--attach: there is no file nowhere"),
        (("Snakefile", "--params", "Snakefile"), "--params: Snakefile"),
    ],
)
async def test_what_cannot_be_sent_is_one_line(
    wesemu, tmp_path, monkeypatch, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    if arguments[0] == "Snakefile":
        Path("Snakefile").write_text("rule: [\n")
        Path("twice.yaml").write_text("a: {c: 1, c: 2}\n")
    status, out, err = await wesemu("submit", *arguments)
    assert (status, out, err.count("\n")) == (ExitStatus.USAGE, "", 1)
    assert said in err


async def test_errors_name_flags_and_not_fields(wesemu, workflow) -> None:
    main = str(workflow / "workflow" / "Snakefile")
    _, _, err = await wesemu("submit", main, "--type", "CWL")
    assert ("--type" in err, "workflow_type" in err) == (True, False)
    _, _, err = await wesemu("submit", "https://example.org/x.smk")
    assert ("WORKFLOW" in err, "workflow_url" in err) == (True, False)


@pytest.fixture
async def github(aiohttp_server, monkeypatch):
    """A server in place of GitHub: its archives, by path, are what a test puts there."""
    archives: dict[str, bytes] = {}

    async def answer(request: web.Request) -> web.Response:
        content = archives.get(request.path)
        return web.Response(body=content or b"", status=200 if content else 404)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    server = await aiohttp_server(app)
    monkeypatch.setattr(submit, "_ARCHIVES", str(server.make_url("/")).rstrip("/"))
    return archives


def archive(*members: tarfile.TarInfo) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as file:
        for member in members:
            file.addfile(member, io.BytesIO(bytes(member.size)))
    return content.getvalue()


def regular(name: str, size: int = 10) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    return member


async def test_a_repository_is_sent_at_its_tag(wesemu, github, settings) -> None:
    github["/own/calling/tar.gz/v1.2"] = archive(
        regular("calling-1.2/workflow/Snakefile"), regular("calling-1.2/.github/x.yml")
    )
    run_id = await submitted(wesemu, "github:own/calling@v1.2")
    assert attached(settings, run_id) == {"workflow/Snakefile"}
    _, out, _ = await wesemu("list")
    assert "| calling-" in out


async def test_a_repository_that_is_not_there_or_hostile_is_refused(
    wesemu, github, monkeypatch
) -> None:
    status, _, err = await wesemu("submit", "github:own/none")
    assert (status, "no public repository own/none with HEAD" in err) == (4, True)
    link = tarfile.TarInfo("r/Snakefile")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    device = tarfile.TarInfo("r/tty")
    device.type = tarfile.CHRTYPE
    for member in (regular("../../out"), regular("/tmp/out"), link, device):
        github["/own/bad/tar.gz/HEAD"] = archive(member)
        status, _, err = await wesemu("submit", "github:own/bad")
        assert (status, "is damaged" in err) == (4, True)
    monkeypatch.setattr(submit, "_LARGEST_ARCHIVE", 1000)
    for members in ([regular("r/Snakefile", 2000)], [regular("r/a", 0), regular("r/b", 0)]):
        github["/own/bad/tar.gz/HEAD"] = archive(*members)
        status, _, err = await wesemu("submit", "github:own/bad")
        assert (status, "is larger than" in err) == (4, True)


async def test_info_and_doctor_compare_the_servers_data(wesemu, settings, tmp_path) -> None:
    status, out, _ = await wesemu("info")
    assert (status, "engine snakemake" in out) == (0, True)
    _, out, _ = await wesemu("info", "--json")
    assert json.loads(out)["data"] == str(settings.data)

    async def server_line(data: Path) -> str:
        _, out, _ = await wesemu("doctor", "--data", str(data), "--json")
        return next(str(each["source"]) for each in json.loads(out) if each["name"] == "server")

    assert "its data is this directory" in await server_line(settings.data)
    assert f"OTHER DATA: {settings.data}" in await server_line(tmp_path / "other")
    for data, checked in ((settings.data, False), (tmp_path / "other", True)):
        status, out, err = await wesemu("doctor", "--data", str(data))
        assert status == 0
        assert ("CHECK" in out) == checked
        assert ("; check: server" in err) == checked


async def test_doctor_checks_a_server_that_is_another_program(wesemu, aiohttp_server) -> None:
    other = await aiohttp_server(web.Application())  # answers everything with 404
    status, out, err = await wesemu("doctor", "--server", str(other.make_url("/")))
    assert (status, "refuses" in out, "; check: server" in err) == (0, True, True)


async def test_a_reference_that_the_server_does_not_get_is_noted(
    wesemu, settings, tmp_path, monkeypatch
) -> None:
    fasta = tmp_path / "new.fa"
    fasta.write_text(">a\n" + "ACGTTGCATGCAAC" * 50 + "\n")
    for data, noted in ((settings.data, False), (tmp_path / "other", True)):
        monkeypatch.setenv("WESEMU_DATA", str(data))
        status, _, err = await wesemu("reference", "add", "new", str(fasta))
        assert (status, f"uses {settings.data}, not {data}" in err) == (0, noted), err


async def test_files_go_to_the_servers_buckets_and_back(wesemu, tmp_path) -> None:
    (tmp_path / "a.txt").write_text("content")
    for location in ("oss://new/b.txt", "oss://new/folder/", "oss://new"):
        status, out, err = await wesemu("bucket", "put", str(tmp_path / "a.txt"), location)
        assert status == 0, err
    assert out == "oss://new/a.txt\n"
    status, out, _ = await wesemu("bucket", "get", "oss://new/folder/a.txt", str(tmp_path / "c"))
    assert (status, out, (tmp_path / "c").read_text()) == (0, f"{tmp_path}/c\n", "content")
    assert (await wesemu("bucket", "get", "oss://new/nothing", str(tmp_path)))[0] == 4
    assert (await wesemu("bucket", "get", "oss://new"))[0] == ExitStatus.USAGE
    assert (await wesemu("bucket", "put", str(tmp_path / "z"), "oss://new"))[0] == ExitStatus.USAGE


async def test_a_file_from_a_bucket_replaces_a_named_file_only(wesemu, tmp_path) -> None:
    (tmp_path / "a.txt").write_text("content")
    assert (await wesemu("bucket", "put", str(tmp_path / "a.txt"), "oss://new"))[0] == 0
    folder = tmp_path / "folder"
    folder.mkdir()
    file = folder / "a.txt"
    file.write_text("my own")
    status, out, err = await wesemu("bucket", "get", "oss://new/a.txt", str(folder))
    assert (status, out, file.read_text()) == (ExitStatus.MACHINE, "", "my own")
    assert f"{file} exists already" in err
    assert "--overwrite" in err
    for named in ((str(folder), "--overwrite"), (str(file),)):
        file.write_text("my own")
        assert (await wesemu("bucket", "get", "oss://new/a.txt", *named))[:2] == (0, f"{file}\n")
        assert file.read_text() == "content"
    file.unlink()
    file.symlink_to(tmp_path / "nothing")
    assert (await wesemu("bucket", "get", "oss://new/a.txt", str(folder)))[0] == ExitStatus.MACHINE
    assert file.is_symlink()


async def test_rerun_shows_what_will_run_and_changes_parameters(wesemu, workflow) -> None:
    first = await submitted(wesemu, workflow)
    status, out, err = await wesemu("rerun", "@last", "--set", "size=4", "--watch")
    assert status == 0, err
    assert err.startswith("will run: greet\n")
    _, out, _ = await wesemu("get", json.loads(out)["run_id"], "--json")
    request = json.loads(out)["wes"]["request"]
    assert request["workflow_params"] == {"script": HELLO, "size": 4}
    assert request["tags"]["wesemu.resumes"] == first
    assert (await wesemu("rerun", first, "--dry-run"))[:2] == (0, "")
    assert (await wesemu("rerun", first, "--set", "size"))[0] == ExitStatus.USAGE
