"""Features of Snakemake that users' workflows rely on."""

from typing import Any

import pytest
import requests
from support.live_server import LiveServer, live_server_fixture

from wesemu.engines.failures import hint

server = live_server_fixture()


WORKFLOW = """
    rule all:
        input: "python.txt", "script.txt", "shadowed.txt", "text.txt"
    rule python:
        output: "python.txt"
        shell: "python -c 'import snakemake' && python3 -c 'import wesemu' && touch {output}"
    rule script:
        output: "script.txt"
        shell: "scripts/hello.sh > {output}; cat plot.R plot.r >> {output}"
    rule shadowed:
        output: touch("shadowed.txt")
        shadow: "minimal"
    rule text:
        output: "text.txt"
        run:
            with open(output[0], "w", newline="") as file:
                file.write(config["text"])
"""
FILES = {"scripts/hello.sh": "#!/bin/sh\necho hello\n", "plot.R": "big\n", "plot.r": "small\n"}
TEXT = "one\u0085two\u2028three \u00e9 \U0001f600: #\n"


def test_python_scripts_shadows_and_texts(server: LiveServer) -> None:
    run = server.run("SMK", WORKFLOW, FILES, params={"text": TEXT})
    assert run.state == "COMPLETE", run.error
    assert run.text("script.txt") == "hello\nbig\nsmall\n"
    assert run.text("text.txt") == TEXT


def test_an_input_may_have_a_time_in_the_future(server: LiveServer) -> None:
    """Another machine wrote it, or the clock was set back since."""
    workflow = """
    import os, time
    tomorrow = time.time() + 86_400
    os.utime("reads.txt", (tomorrow, tomorrow))
    rule all:
        input: "copied.txt"
        output: "found.txt"
        run: shell("cp {input} {output}")
    rule copied:
        input: "reads.txt"
        output: "copied.txt"
        shell: "cp {input} {output}"
    """
    run = server.run("SMK", workflow, {"reads.txt": "reads"})
    assert run.state == "COMPLETE", run.error
    assert run.text("found.txt") == "reads"


def test_a_file_field_in_which_nothing_was_chosen_is_ignored(server: LiveServer) -> None:
    fields = {"workflow_type": "SMK", "workflow_type_version": "9", "workflow_url": "Snakefile"}
    workflow = b'rule a:\n    output: touch("a.txt")\n'
    parts = [(f'name="{name}"', text.encode()) for name, text in fields.items()]
    parts.append(('name="workflow_attachment"; filename="Snakefile"', workflow))
    parts.append(('name="workflow_attachment"; filename=""', b""))
    content = b"".join(
        b"--x\r\nContent-Disposition: form-data; " + about.encode() + b"\r\n\r\n" + part + b"\r\n"
        for about, part in parts
    )
    content += b"--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = requests.post(f"{server.url}/runs", data=content, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    assert server.wait(answer.json()["run_id"]).state == "COMPLETE"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("ModuleNotFoundError: No module named 'pandas'", 1, "wesemu[workflows]"),
        ("For PEP support, please install peppy.", None, "wesemu[workflows]"),
        ("ModuleNotFoundError: No module named 'Bio.SeqIO'", 1, "the module Bio "),
        (
            "Max retries exceeded with url: /snakemake (Caused by NameResolutionError)",
            None,
            "attach",
        ),
        (
            "The package snakemake-storage-plugin-http is not installed.",
            None,
            "pip install snakemake-storage-plugin-http",
        ),
        ("", 141, "SIGPIPE"),
        ("RuntimeError: can't start new thread", None, "ulimit -u"),
        ("bash: fork: retry: Resource temporarily unavailable", 254, "ulimit -u"),
    ],
)
def test_hints(words: str, code: int | None, told: str) -> None:
    assert told in (hint(code, words) or "")


def test_an_import_that_is_missing_and_a_broken_pipe_are_explained(server: LiveServer) -> None:
    workflow = """
        rule a:
            output: "a.txt"
            shell: "yes | head -n 1 > {output}"
    """
    run = server.run("SMK", workflow)
    assert run.state == "EXECUTOR_ERROR"
    assert "SIGPIPE" in run.error["hint"]
    run = server.run("SMK", "import no_such_module_anywhere\n" + 'rule a:\n    output: "a"\n')
    assert "the module no_such_module_anywhere" in run.error["hint"]


def test_a_workflow_on_the_web_that_cannot_be_reached_is_explained(server: LiveServer) -> None:
    workflow = """
        module other:
            snakefile: "http://localhost:9/none/Snakefile"
        use rule * from other
    """
    run = server.run("SMK", workflow)
    assert run.state == "EXECUTOR_ERROR"
    assert "attach" in run.error["hint"], run.error


@pytest.mark.parametrize("line", ['conda: "files/none.yaml"', 'script: "files/none.yaml"'])
def test_a_file_that_was_not_attached_is_named(server: LiveServer, line: str) -> None:
    run_it = "" if "script" in line else 'shell: "touch {output}"'
    workflow = f"""
        rule a:
            output: "a.txt"
            {line}
            {run_it}
    """
    run = server.run("SMK", workflow)
    assert run.state == "EXECUTOR_ERROR"
    assert run.error["hint"] == "attach files/none.yaml, or correct its path in the workflow"
    assert "permissions" not in run.error["message"]


SOFTWARE = """
    rule all:
        input: "a.txt", "b.txt"
    rule a:
        output: "a.txt"
        conda: "envs/tool.yaml"
        shell: "touch {output}"
    rule b:
        output: "b.txt"
        container: "docker://alpine:3"
        shell: "touch {output}"
"""


def test_software_that_is_not_provided_is_named_once(server: LiveServer) -> None:
    run = server.run("SMK", SOFTWARE, {"envs/tool.yaml": "dependencies: []\n"})
    assert run.state == "COMPLETE", run.error
    log = (run.folder / "stderr.log").read_text()
    warning = "Warning: ignored conda envs/tool.yaml of a; container docker://alpine:3 of b."
    assert log.count(warning) == 1
    assert "engine.deployment" in log


STEPS = """
    rule all:
        input: "b.txt"
    rule a:
        output: "a.txt"
        shell: "date +%N > {output}"
    rule b:
        input: "a.txt"
        output: "b.txt"
        params: word=config["word"]
        shell: "test {params.word} = good && cat {input} > {output}"
"""


def test_a_resumed_run_does_only_what_is_left(server: LiveServer) -> None:
    failed = server.run("SMK", STEPS, params={"word": "bad"})
    assert failed.state == "EXECUTOR_ERROR"

    def resume(url: str, **body: object) -> dict[str, Any]:
        answer = requests.post(f"{url}/resume", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    good = {"word": "good"}
    plan = resume(failed.url, workflow_params=good, dry_run=True)
    assert plan["wesemu"]["graph"]["counts"] == {"b": 1}
    run = server.wait(str(resume(failed.url, workflow_params=good)["run_id"]))
    assert run.state == "COMPLETE", run.error
    assert [task["name"] for task in run.run_log["task_logs"]] == ["b"]
    first, second = (each.folder / "work" / "a.txt" for each in (failed, run))
    assert first.samefile(second)
    assert run.text("b.txt") == first.read_text()
    again = server.wait(str(resume(run.url)["run_id"]))
    assert again.state == "COMPLETE"
    assert again.run_log["task_logs"] == []
    assert again.text("b.txt") == first.read_text()
