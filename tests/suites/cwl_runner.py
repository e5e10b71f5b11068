"""Runs a CWL document on a WES server, with the command line that `cwltest` expects.

    python cwl_runner.py --wes URL [--outdir FOLDER] [--quiet] DOCUMENT[#PROCESS] [JOB]

It attaches the document, the job's files and all files that these name, waits for the end of the
run, fetches its outputs into FOLDER and prints the output object, as cwltool does. The exit status
is 0, 1 if the run fails, or 33 if it needs a container that the server cannot start.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import requests
import yaml

_ENDED = ("COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED")
_DOCUMENTS = (".cwl", ".yml", ".yaml", ".json")
_SECONDS = 300.0
_NEEDS_CONTAINER = "DockerRequirement under 'requirements'"
FAILED, UNSUPPORTED = 1, 33


class Attachments:
    """The files that a document, its job and everything that they name consist of."""

    def __init__(self, *starts: Path) -> None:
        self._found = set[Path]()
        for start in starts:
            self._add(start)
        self.root = Path(os.path.commonpath([path.parent for path in self._found]))

    def name(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    def parts(self) -> Iterator[tuple[str, tuple[str, bytes]]]:
        for path in sorted(self._found):
            yield "workflow_attachment", (quote(self.name(path)), path.read_bytes())

    def _add(self, path: Path) -> None:
        if path in self._found:
            return
        if path.is_dir():
            self._found.update(below for below in path.rglob("*") if below.is_file())
            return
        self._found.add(path)
        if path.suffix in _DOCUMENTS:
            try:
                document = yaml.safe_load(path.read_text())
            except (yaml.YAMLError, UnicodeDecodeError):
                return
            for text in _strings(document):
                self._add_named(text, path.parent)

    def _add_named(self, text: str, folder: Path) -> None:
        """With the files beside it that may be its secondary files."""
        named = _local(text, folder)
        if named is None or not named.exists() or named == folder:
            return
        self._add(named)
        if named.is_file() and named.suffix not in _DOCUMENTS:
            stem = named.name.partition(".")[0]
            for beside in named.parent.iterdir():
                if beside.name.startswith(f"{stem}."):
                    self._add(beside)


def _local(text: str, folder: Path) -> Path | None:
    """The file that a reference in a document in `folder` means, if it can be one."""
    if not text or len(text) > 250 or "\n" in text or "\0" in text:
        return None
    url = urlsplit(text) if text.startswith("file:") else None
    plain = folder / (unquote(url.path) if url else text)
    if not plain.exists():
        plain = folder / unquote(text.partition("#")[0])
    return Path(os.path.normpath(plain))


def _strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for item in value:
                yield from _strings(item)
        case dict():
            for item in value.values():
                yield from _strings(item)


def _job(value: Any, folder: Path, attachments: Attachments) -> Any:
    """The job with the paths of its files as the attachments are named."""
    match value:
        case list():
            return [_job(item, folder, attachments) for item in value]
        case {"class": "File" | "Directory"}:
            moved = {name: _job(item, folder, attachments) for name, item in value.items()}
            for name in ("path", "location"):
                path = _local(str(value.get(name, "")), folder)
                if path is not None and path.exists():
                    moved.pop(name)
                    moved["path"] = attachments.name(path)
            return moved
        case dict():
            return {name: _job(item, folder, attachments) for name, item in value.items()}
        case _:
            return value


def _submit(server: str, document: Path, process: str, job: Path | None) -> requests.Response:
    attachments = Attachments(*filter(None, (document, job)))
    order: Any = yaml.safe_load(job.read_text()) if job else {}
    version = yaml.safe_load(document.read_text()).get("cwlVersion", "v1.2")
    fields = {
        "workflow_type": "CWL",
        "workflow_type_version": version,
        "workflow_url": attachments.name(document) + process,
        "workflow_params": json.dumps(_job(order or {}, job.parent, attachments) if job else {}),
    }
    parts = list(attachments.parts())
    return requests.post(f"{server}/runs", data=fields, files=parts, timeout=_SECONDS)


def _wait(url: str) -> dict[str, Any]:
    deadline = time.monotonic() + _SECONDS
    while requests.get(f"{url}/status", timeout=_SECONDS).json()["state"] not in _ENDED:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{url} does not end")
        time.sleep(0.1)
    return dict(requests.get(url, timeout=_SECONDS).json())


def _fetch(run: Mapping[str, Any], folder: Path) -> Any:
    """The output object, with the files in `folder`."""
    for name, output in run["outputs"].items():
        path = folder / Path(name).relative_to("out")
        path.parent.mkdir(parents=True, exist_ok=True)
        answer = requests.get(output["url"], timeout=_SECONDS)
        answer.raise_for_status()
        path.write_bytes(answer.content)
    outputs = folder / "outputs.json"
    found = json.loads(outputs.read_text())
    outputs.unlink()
    return _placed(found, folder)


def _placed(value: Any, folder: Path) -> Any:
    match value:
        case list():
            return [_placed(item, folder) for item in value]
        case {"class": "File" | "Directory" as kind}:
            placed = {name: _placed(item, folder) for name, item in value.items()}
            where = value.get("path") or value.get("location")
            if where is not None:
                path = folder / str(where)
                if kind == "Directory":
                    path.mkdir(parents=True, exist_ok=True)
                placed |= {"path": str(path), "location": path.as_uri()}
            return placed
        case dict():
            return {name: _placed(item, folder) for name, item in value.items()}
        case _:
            return value


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--wes", required=True)
    parser.add_argument("--outdir", type=Path, default=Path())
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("document")
    parser.add_argument("job", type=Path, nargs="?")
    asked = parser.parse_args()
    name, mark, process = asked.document.partition("#")
    document = Path(unquote(urlsplit(name).path) if name.startswith("file:") else name).absolute()
    if not document.is_file():
        document, mark, process = Path(asked.document).absolute(), "", ""
    answer = _submit(asked.wes, document, mark + process, asked.job and asked.job.absolute())
    if not answer.ok:
        sys.stderr.write(answer.text)
        return FAILED
    run = _wait(f"{asked.wes}/runs/{answer.json()['run_id']}")
    if run["state"] != "COMPLETE":
        error = json.dumps(run["wesemu"].get("error", {}))
        sys.stderr.write(f"{run['state']} {error}\n")
        return UNSUPPORTED if _NEEDS_CONTAINER in error else FAILED
    json.dump(_fetch(run, asked.outdir.absolute()), sys.stdout, indent=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
