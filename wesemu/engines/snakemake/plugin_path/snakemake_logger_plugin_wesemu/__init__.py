"""A logger plugin for Snakemake that writes log events as JSON lines to a pipe.

WESEMU_EVENTS_FD is the descriptor of the pipe. The plugin is in its own folder, so that Snakemake
finds it only in wesemu's runs. It imports nothing from wesemu, because Snakemake may be installed
in another environment.
"""

import json
import os
import threading
import time
from logging import LogRecord
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase

_MEMBERS = {
    "run_info": ("stats",),
    "job_info": (
        "jobid",
        "rule_name",
        "input",
        "output",
        "log",
        "wildcards",
        "threads",
        "shellcmd",
    ),
    "job_error": ("jobid", "rule_name", "log", "shellcmd"),
    "group_error": ("job_error_info",),
    "job_finished": ("job_id",),
    "progress": ("done", "total"),
    "error": ("exception",),
}


_PAUSE_SECONDS = 0.1


class _Ended:
    """Kills the processes of failed groups, including processes that start later.

    Snakemake kills the other members of a group only once. A process that starts later would wait
    forever for the other end of its pipe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs = set[int]()
        self._killing = False

    def add(self, jobs: Any) -> None:
        with self._lock:
            self._jobs.update(job["jobid"] for job in jobs)
            if not self._killing:
                self._killing = True
                threading.Thread(target=self._kill, name="ended groups", daemon=True).start()

    def starts_again(self, job: int) -> None:
        """Stop killing the job: a new attempt starts."""
        with self._lock:
            self._jobs.discard(job)

    def _kill(self) -> None:
        from snakemake.shell import shell

        while True:
            with self._lock:
                jobs = list(self._jobs)
            for job in jobs:
                shell.kill(job)
            time.sleep(_PAUSE_SECONDS)


class LogHandler(LogHandlerBase):
    """Receives all events, independent of the verbosity."""

    writes_to_stream = False
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self._ended = _Ended()
        self._pipe = int(os.environ.pop("WESEMU_EVENTS_FD"))
        os.set_inheritable(self._pipe, False)
        # tools of the workflow must not find this plugin
        own = str(Path(__file__).parent.parent)
        others = [
            part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part != own
        ]
        os.environ["PYTHONPATH"] = os.pathsep.join(others)
        if not any(others):
            del os.environ["PYTHONPATH"]

    def emit(self, record: LogRecord) -> None:
        event = str(getattr(record, "event", ""))
        if event not in _MEMBERS:
            return
        if event == "group_error":
            self._ended.add(getattr(record, "job_error_info", None) or ())
        elif event == "job_info":
            self._ended.starts_again(getattr(record, "jobid", -1))
        members: dict[str, Any] = {
            name: _plain(getattr(record, name, None)) for name in _MEMBERS[event]
        }
        message = {
            "event": event,
            "time": record.created,
            "message": record.getMessage(),
            **members,
        }
        self._write(json.dumps(message, default=str).encode() + b"\n")

    def _write(self, content: bytes) -> None:
        try:
            while content:
                content = content[os.write(self._pipe, content) :]
        except OSError:
            return  # the reader has gone; the workflow continues


def _plain(value: Any) -> Any:
    """Convert Snakemake's lists and mappings to plain Python values."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [str(item) for item in value]
    return value
