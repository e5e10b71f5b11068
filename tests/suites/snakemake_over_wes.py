"""A pytest plugin: Snakemake's own tests run their workflows through a WES server.

    pytest -p suites.snakemake_over_wes --wes URL --runs FOLDER …/snakemake/tests/tests.py

It replaces the function `run` of Snakemake's tests. A call copies the test's folder, attaches the
files, waits for the end of the run, brings the files of the run back into the folder and compares
them with `expected-results` as Snakemake does. A test is skipped with the reason if it needs
options that clients of the server cannot choose (executors, storage, reports, ...).
"""

import inspect
import json
import re
import shlex
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from snakemake import exceptions
from snakemake.settings.types import Batch
from snakemake.utils import update_config
from support.live_server import LiveServer

_IGNORED = {
    *("path", "snakefile", "tmpdir", "cleanup", "set_pythonpath", "shouldfail"),
    *("check_md5", "check_results", "printshellcmds", "debug_dag", "trust_io_cache"),
    *("conda_frontend", "conda_prefix", "container_image", "scheduler_ilp_solver"),
    *("executor_settings", "cluster_status", "nodes"),
    *("config", "configfiles", "executor"),
}
"""Arguments that change nothing in the files that a run makes, and those that are seen to apart."""

_SILENT = {
    *("printshellcmds", "verbose", "quiet", "debug_dag", "show_failed_logs"),
    "max_jobs_per_timespan",
}
"""Options of the command line that change nothing in the files either, or are objects."""

_OPTIONS = {
    *("targets", "until", "omit_from", "forcerun", "forceall"),
    *("retries", "keep_going", "notemp"),
}
"""Options of the command line that are engine parameters of the same name and the same form."""

_SNAKEFILES = ("Snakefile", "snakefile", "workflow/Snakefile", "workflow/snakefile")


def _words(items: Iterable[Any]) -> str:
    return json.dumps([str(item) for item in items])


_CONVERSIONS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    # an argument of `run`: the engine parameter, and its text
    **{
        name: (name, _words)
        for name in ("targets", "until", "omit_from", "forcerun", "default_resources")
    },
    "forceall": ("forceall", lambda value: str(value).lower()),
    "retries": ("retries", str),
    "rerun_triggers": ("rerun_triggers", lambda value: ",".join(map(str, value))),
    "overwrite_resources": (
        "set_resources",
        lambda value: _words(
            f"{rule}:{name}={getattr(amount, 'value', amount)}"
            for rule, resources in value.items()
            for name, amount in resources.items()
        ),
    ),
    "overwrite_scatter": (
        "set_scatter",
        lambda value: _words(f"{name}={items}" for name, items in value.items()),
    ),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--wes", help="the server's address")
    parser.addoption("--runs", help="the server's data directory")


@pytest.fixture(autouse=True)
def _through_the_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also sees to it that a test that starts no run is skipped, not passed."""
    option = request.config.option
    if "run(" not in inspect.getsource(request.function):
        pytest.skip("starts no run")
    runner = Runner(LiveServer(option.wes, Path(option.runs)), request.module.run)
    monkeypatch.setattr(request.module, "run", runner)


class Runner:
    """Called as `run` of Snakemake's tests/common.py."""

    def __init__(self, server: LiveServer, original: Callable[..., Any]) -> None:
        self._server = server
        self._original = original
        self._signature = inspect.signature(original)

    def __call__(self, *args: Any, **kwargs: Any) -> Path | None:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        call = Namespace(**bound.arguments)
        given = {
            name: value
            for name, value in bound.arguments.items()
            if value is not self._signature.parameters[name].default
            and (isinstance(value, Batch) or value != self._signature.parameters[name].default)
        }
        source = Path(call.path)
        folder = Path(call.tmpdir) if call.tmpdir else self._copied(source)
        params, engine, snakefile = self._request(call, given, folder)
        if "://" in snakefile:
            pytest.skip("its Snakefile is a URL, not a file of the test")
        succeeded, text = self._run(folder, snakefile, params, engine)
        sys.stdout.write(text)  # some tests look there, others at stderr
        sys.stderr.write(text)
        if not succeeded and not call.shouldfail:
            raise _error(text)
        assert succeeded is not bool(call.shouldfail), text
        if not call.shouldfail if call.check_results is None else call.check_results:
            self._compare(source / "expected-results", folder, call.check_md5)
        if not call.cleanup:
            return folder
        shutil.rmtree(folder)
        return None

    def _copied(self, source: Path) -> Path:
        common = inspect.getmodule(self._original)
        with common.prepare_tmpdir(source, name_slug="wes", cleanup=False) as folder:  # type: ignore[union-attr]
            return Path(folder)

    def _request(
        self, call: Namespace, given: Mapping[str, Any], folder: Path
    ) -> tuple[dict[str, Any], dict[str, str], str]:
        """workflow_params, workflow_engine_parameters and workflow_url."""
        params, engine = dict[str, Any](), {"cores": str(call.cores)}
        if call.sigint_after:
            pytest.skip("sends a signal to Snakemake")
        if any(isinstance(value, Path) for value in call.config.values()):
            pytest.skip("has a value in its configuration that JSON cannot tell")
        if call.shellcmd:
            return self._command(call.shellcmd.replace(f"{call.path}/", ""), folder)
        for name, value in given.items():
            if name in _IGNORED or (name in ("cores", "cluster") and not call.shouldfail):
                continue
            if name not in _CONVERSIONS or not _sendable(value):
                pytest.skip(f"needs `{name}`, which is the server's to decide")
            parameter, convert = _CONVERSIONS[name]
            engine[parameter] = convert(value)
        for path in call.configfiles:
            update_config(params, yaml.safe_load((folder / path).read_text()))
        update_config(params, call.config)
        if call.executor == "dryrun":
            engine["dry_run"] = "true"
        elif call.executor not in ("local", "cluster-generic"):
            pytest.skip(f"needs the executor {call.executor}")
        return params, engine, str(call.snakefile)

    def _command(self, line: str, folder: Path) -> tuple[dict[str, Any], dict[str, str], str]:
        from snakemake.cli import get_argument_parser

        words = shlex.split(line)[1:]
        parser = get_argument_parser()
        if {"|", ">", "&&", ";", "2>&1"} & set(words):
            pytest.skip("is more than a command")
        asked, usual = vars(parser.parse_args(words)), vars(parser.parse_args([]))
        engine, params = dict[str, str](), dict[str, Any]()
        snakefile = next(name for name in _SNAKEFILES if (folder / name).is_file())
        for name, value in asked.items():
            if value == usual[name] or name in _SILENT:
                continue
            match name:
                case "cores" | "jobs":
                    engine["cores"] = str(value)
                case "snakefile":
                    snakefile = str(value)
                case "configfile":
                    for path in value:
                        update_config(params, yaml.safe_load((folder / path).read_text()))
                case "config" | "default_resources" | "set_threads" | "set_resources" | "profile":
                    engine[name] = _words(_following(words, f"--{name.replace('_', '-')}"))
                case "workflow_profile":
                    engine[name] = str(value)
                case _ if name in _OPTIONS:
                    many = isinstance(value, list | set | frozenset)
                    engine[name] = _words(map(str, value)) if many else str(value).lower()
                case _:
                    pytest.skip(f"needs --{name.replace('_', '-')}")
        return params, engine, snakefile

    def _run(
        self, folder: Path, snakefile: str, params: Mapping[str, Any], engine: Mapping[str, str]
    ) -> tuple[bool, str]:
        """Whether a run over the files in `folder` succeeds, and its stderr. Brings its files."""
        files = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(_files(folder), key=lambda path: path.stat().st_mtime_ns)
        }
        main = files.pop(snakefile)
        answer = self._server.post(
            "SMK", main.decode(), files, params=params, engine=engine, url=snakefile
        )
        if answer.status_code == requests.codes.bad_request:
            return False, answer.text
        assert answer.ok, answer.text
        if "dry_run" in engine:
            return True, answer.text
        run = self._server.wait(answer.json()["run_id"])
        for path in _files(folder):
            path.unlink()
        shutil.copytree(run.folder / "work", folder, symlinks=True, dirs_exist_ok=True)
        return run.state == "COMPLETE", f"{run.state} {run.error}\n{run.log('stderr')}"

    def _compare(self, expected: Path, folder: Path, contents: bool) -> None:
        for path in expected.rglob("*"):
            name = path.relative_to(expected)
            if not path.is_file() or path.name.endswith("_WIN") or path.name.startswith("."):
                continue
            assert (folder / name).exists(), f"{name} is not made"
            if contents:
                assert (folder / name).read_bytes().strip() == path.read_bytes().strip(), name


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if name.parts[0] in (".snakemake", "expected-results") or "__pycache__" in name.parts:
            continue
        if path.is_file() and not path.name.startswith(".config"):
            yield path


def _error(text: str) -> Exception:
    """As what Snakemake would raise: the first of its exceptions that `text` names."""
    named = re.search(r"(\w+(?:Exception|Error))\b", text)
    kind = getattr(exceptions, named[1] if named else "", AssertionError)
    error: Exception = kind.__new__(kind)
    error.args = (text,)
    return error


def _sendable(value: Any) -> bool:
    """Whether it is data, as JSON has it, and no object of Snakemake's."""
    return isinstance(value, str | int | list | set | frozenset | dict)


def _following(words: list[str], option: str) -> Iterator[str]:
    """The values after `option`, which may stand several times, up to the next option."""
    taken = False
    for word in words:
        name, _, value = word.partition("=")
        if word.startswith("-"):
            taken = name == option
            if taken and value:
                yield value
        elif taken:
            yield word
