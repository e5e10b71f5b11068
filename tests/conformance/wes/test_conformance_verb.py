"""`wesemu conformance`: its outputs and exit statuses, also for servers that send garbage."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from conformance.wes.faulty_server import FaultyServer, engine, server
from yarl import URL

from wesemu.cli.app import execute
from wesemu.cli.conformance import to_json, to_junit
from wesemu.client import ClientError
from wesemu.conformance.checks import CHECKS, CheckOutcome, Report, examine, judge
from wesemu.conformance.evidence import collect
from wesemu.conformance.probe import Answer, ProbeLimits
from wesemu.conformance.workflows import choose_workflow

__all__ = ["engine", "server"]

LIMITS = ProbeLimits(seconds=60.0, body=20_000)

Verb = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def verb(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Verb:
    """Run `wesemu conformance` in a thread beside the server: its status, stdout and stderr."""
    monkeypatch.delenv("WESEMU_TOKEN", raising=False)

    def run(arguments: tuple[str, ...]) -> int:
        with pytest.raises(SystemExit) as ended:
            execute(("conformance", *arguments))
        return int(ended.value.code or 0)

    async def act(*arguments: str) -> tuple[int, str, str]:
        status = await asyncio.to_thread(run, arguments)
        return status, *capsys.readouterr()

    return act


# --- outputs and exit statuses ---


async def test_a_report_in_all_forms(server: FaultyServer, verb: Verb, tmp_path: Path) -> None:
    url = f"{server.url}1.0.0/ga4gh/wes/v1"
    files = ("--json", str(tmp_path / "a.json"), "--junit", str(tmp_path / "a.xml"))
    status, out, err = await verb(url, "--workflow-type", "SMK", *files)
    assert status == 0
    assert "| pass   | MUST   | run.accepted" in out
    assert "skip auth.wrong: needs --token" in out
    assert f"testing {url} as WES 1.0.0 with a workflow of type SMK" in err
    assert "0 failed (0 of level MUST)" in err
    told = json.loads((tmp_path / "a.json").read_text())
    assert (told["url"], told["version"], told["conforms"]) == (url, "1.0.0", True)
    assert [check["id"] for check in told["checks"]] == [check.id for check in CHECKS]
    accepted = next(check for check in told["checks"] if check["id"] == "run.accepted")
    assert accepted["exchange"].startswith('POST /runs → 200 {"run_id": "')
    suite = ET.fromstring((tmp_path / "a.xml").read_text())[0]
    assert int(suite.attrib["tests"]) == len(CHECKS)
    assert suite.attrib["failures"] == "0"
    assert int(suite.attrib["skipped"]) == told["summary"]["skip"]


async def test_a_required_check_that_fails_is_status_1(
    server: FaultyServer, verb: Verb, tmp_path: Path
) -> None:
    def fault(exchange: Any) -> None:
        if exchange.status == 404:
            exchange.answer(410, msg="\x1b[31mgone\x00", status_code=410)

    server.fault = fault
    file = tmp_path / "a.xml"
    status, out, err = await verb(server.url, "--workflow-type", "SMK", "--junit", str(file))
    assert status == 1
    assert "fail log.unknown-run: the status is 410, not 404 or 403" in out
    assert "\x1b" not in out
    assert "3 failed (3 of level MUST)" in err
    suite = ET.fromstring(file.read_text())[0]
    assert len(suite.findall("testcase/failure")) == 3


async def test_a_recommendation_that_is_not_met_is_status_0(
    server: FaultyServer, verb: Verb, tmp_path: Path
) -> None:
    def fault(exchange: Any) -> None:
        if exchange.status == 404:
            del exchange.body["msg"]

    server.fault = fault
    file = tmp_path / "a.xml"
    status, _, err = await verb(server.url, "--workflow-type", "SMK", "--junit", str(file))
    assert status == 0
    assert "1 failed (0 of level MUST)" in err
    suite = ET.fromstring(file.read_text())[0]
    assert suite.attrib["failures"] == "0"
    case = next(case for case in suite if case.attrib["name"].startswith("errors.complete"))
    assert "only recommended: msg is missing" in case[0].attrib["message"]


async def test_a_workflow_of_ones_own(server: FaultyServer, verb: Verb, tmp_path: Path) -> None:
    (tmp_path / "own.smk").write_text("rule all:\n")
    (tmp_path / "params.yaml").write_text("seconds: 0\n")
    own = ("--workflow", str(tmp_path / "own.smk"), "--params", str(tmp_path / "params.yaml"))
    status, out, _ = await verb(server.url, *own, "--workflow-type", "SMK")
    assert status == 0
    assert "skip run.folders: only with the workflows of this program" in out
    assert "| pass   | MUST   | states.complete" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--version", "2.0.0"), "--version"),
        (("--timeout", "soon"), "is not a duration"),
        (("--workflow", "x.smk"), "--workflow needs --workflow-type"),
        (("--params", "x.json"), "--params needs --workflow"),
        (("--workflow-type", "GALAXY"), "there is no test workflow for GALAXY"),
    ],
)
async def test_a_wrong_command_is_status_2(
    server: FaultyServer, verb: Verb, arguments: tuple[str, ...], expected: str
) -> None:
    status, out, err = await verb(server.url, *arguments)
    assert (status, out) == (2, "")
    assert expected in err


async def test_no_server_is_status_3(verb: Verb, reserved_port: int) -> None:
    status, _, err = await verb(f"127.0.0.1:{reserved_port}")
    assert status == 3
    assert err.startswith("wesemu: no server answers at http://127.0.0.1:")


# --- servers that answer rubbish ---

DEEP = b"[" * 5000 + b"]" * 5000
BODIES = {
    "html": (b"text/html", b"<!doctype html><title>Welcome</title>"),
    "empty": (b"application/json", b""),
    "a list": (b"application/json", b"[]"),
    "null": (b"application/json", b"null"),
    "a number": (b"application/json", b"1e999"),
    "a huge number": (b"application/json", b"9" * 9000),
    "NaN": (b"application/json", b'{"run_id": NaN}'),
    "deep": (b"application/json", b'{"run_id": "x", "state": ' + DEEP + b"}"),
    "not UTF-8": (b"application/json", b'{"run_id": "\xff"}'),
    "lone surrogates": (b"application/json", b'{"run_id": "\\ud800", "state": "\\udfff\\u0000"}'),
    "a bad id": (b"application/json", b'{"run_id": "../../%00?#\\n", "state": "COMPLETE"}'),
    "wrong types": (
        b"application/json",
        b'{"run_id": "x", "state": {}, "runs": [1, null], "task_logs": {"a": 1}, "type": "wes",'
        b' "next_page_token": "x", "request": [], "run_log": 1, "outputs": null,'
        b' "workflow_type_versions": {"SMK": 1}, "workflow_engine_versions": ["x"]}',
    ),
    "bad URLs": (
        b"application/json",
        b'{"run_id": "x", "state": "COMPLETE", "task_logs_url": "http://[", "run_log":'
        b' {"stdout": "http://a b:99999/", "stderr": "\\ud800"}, "runs": [{}], "task_logs": [{}]}',
    ),
}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
RAW = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a broken head": b"HTTP/1.1 two hundred\r\n\r\n",
    "half a body": HEAD + b'Content-Length: 100\r\n\r\n{"run',
    "bad chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "bad gzip": HEAD + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    "a redirect": b"HTTP/1.1 302 Found\r\nLocation: http://[/\r\nContent-Length: 0\r\n\r\n",
    "a status of its own": b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\n{}",
}


async def serve(respond: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> asyncio.Server:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await respond(writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)


async def look_at(server: asyncio.Server, **options: Any) -> Report | None:
    """Examine a server; None if there is no answer at all. Each report has all its forms."""
    options = {"version": "1.1.0", "seconds": 1.0, "limits": LIMITS} | options
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server, asyncio.timeout(120):
        try:
            report = await examine(url, **options)
        except ClientError:
            return None
    assert len(report.results) == len(CHECKS)
    assert not report.conforms
    assert all(len(result.exchange) < 2000 for result in report.results)
    json.dumps(to_json(report)).encode()
    ET.fromstring(to_junit(report))
    return report


@pytest.mark.parametrize("kind", BODIES)
async def test_bodies_that_are_rubbish(kind: str) -> None:
    media_type, body = BODIES[kind]

    async def respond(writer: asyncio.StreamWriter) -> None:
        length = str(len(body)).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %s\r\n\r\n"
        writer.write(head % (media_type, length) + body)
        await writer.drain()

    report = await look_at(await serve(respond))
    assert report is not None
    assert report.count(CheckOutcome.FAIL) > 3


@pytest.mark.parametrize("kind", RAW)
async def test_answers_that_are_no_http(kind: str) -> None:
    async def respond(writer: asyncio.StreamWriter) -> None:
        writer.write(RAW[kind])
        await writer.drain()

    await look_at(await serve(respond))


async def test_bodies_without_end() -> None:
    async def respond(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while True:
            writer.write(b"[" * 10_000)
            await writer.drain()

    report = await look_at(await serve(respond))
    assert report is not None
    assert "longer than 20000 bytes" in report.results[0].reason


async def test_a_silent_server_gets_few_requests() -> None:
    limits = ProbeLimits(seconds=2.0, silent=2)
    requests = []

    async def respond(writer: asyncio.StreamWriter) -> None:
        requests.append(writer)
        if len(requests) == 1:
            writer.write(HEAD + b"Content-Length: 2\r\n\r\n{}")
            await writer.drain()
        else:
            await asyncio.sleep(limits.seconds * 3)

    report = await look_at(await serve(respond), limits=limits)
    assert report is not None
    assert len(requests) == 1 + limits.silent


async def test_a_server_that_is_always_slow_is_given_up() -> None:
    async def respond(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)
        writer.write(HEAD + b"Content-Length: 15\r\n\r\n" + b'{"run_id": "x"}')
        await writer.drain()

    limits = ProbeLimits(seconds=60.0, total=0.2)
    report = await look_at(await serve(respond), limits=limits, seconds=0.2)
    assert report is not None
    assert any("took too long for the earlier" in result.reason for result in report.results)


VALUES = ("", "x", "COMPLETE", "RUNNING", "http://127.0.0.1:9/", 0, -1, 1.5, True, None, [], {})
KEYS = (
    *("run_id", "state", "runs", "next_page_token", "request", "run_log", "task_logs", "outputs"),
    *("task_logs_url", "id", "name", "stdout", "stderr", "start_time", "end_time", "tags", "type"),
    *("supported_wes_versions", "system_state_counts", "workflow_params", "msg", "status_code"),
    *("workflow_type_versions", "workflow_engine_versions", "group", "version", "SMK"),
)


class Chance:
    """Stands for a Probe: answers of random JSON with the specification's keys."""

    given_up = False
    base = URL("http://127.0.0.1/")

    def __init__(self, seed: int) -> None:
        self.answers: list[Answer] = []
        self._random = random.Random(seed)

    async def ask(self, *_: Any, **__: Any) -> Answer:
        await asyncio.sleep(0)
        status = self._random.choice((200, 200, 200, 404, 500, None))
        body = None if status is None else self._value(4)
        self.answers.append(Answer("GET /x", status, "text/html", "x", body))
        return self.answers[-1]

    fetch = ask

    def _value(self, depth: int) -> Any:
        match self._random.randrange(4 if depth else 1):
            case 0:
                return self._random.choice(VALUES)
            case 1:
                return [self._value(depth - 1) for _ in range(self._random.randrange(3))]
        return {key: self._value(depth - 1) for key in self._random.sample(KEYS, 12)}


@pytest.mark.parametrize("seed", range(60))
async def test_random_answers(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wesemu.conformance.evidence._FIRST_PAUSE", 0.0)
    probe: Any = Chance(seed)
    workflow = choose_workflow(await probe.ask(), "SMK")
    assert workflow is not None
    info = await probe.ask()
    evidence = await collect(probe, "1.1.0", info, workflow, seconds=0.02, has_token=True)
    results = await judge(evidence)
    assert [result.check for result in results] == list(CHECKS)
