"""What Snakemake's log events tell of tasks: fewer details than `watch` learns from its hooks.

There are no files per task (all goes to the run's logs), a task is known once it is started,
and exit statuses are taken from messages.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from wesemu.engines.failures import last_words, shorten
from wesemu.engines.journal import Journal
from wesemu.engines.outputs import OutputFiles
from wesemu.engines.snakemake.cluster_plugin import exit_status, job_log, read_job_log
from wesemu.engines.snakemake.failures import relative_logs, task_failure
from wesemu.engines.task_book import TaskBook, job_key
from wesemu.runs.model import JsonObject, RunFailure, TaskLog, TaskState
from wesemu.runs.workspace import Workspace

_INCOMPLETE = re.compile(r"Job (\d+)\s+completed successfully, but some output files are missing")

Message = dict[str, Any]


class CommandWatch:
    """Turns the plugin's messages into the journal."""

    def __init__(self, workspace: Workspace, journal: Journal, earlier: list[JsonObject]) -> None:
        self._workspace = workspace
        self._journal = journal
        self._book = TaskBook(earlier)
        self._attempts = dict[int, int]()
        self._running = dict[int, tuple[TaskLog, Message]]()
        self._complaints = list[str]()
        self._canceled = False
        self.deserted_service = False
        """Jobs of a group have failed, and Snakemake would wait for its service for ever."""
        self._failures = dict[int, RunFailure]()
        self._finished = dict[str, None]()
        self._made, self._consumed, self._wanted = dict[str, None](), set[str](), set[str]()
        for record in earlier:
            self._note_files(record)

    def hear(self, message: Message) -> None:
        moment = datetime.fromtimestamp(message["time"], UTC)
        match message["event"]:
            case "run_info":
                self._journal.write("planned", total=(message["stats"] or {}).get("total", 0))
            case "job_info":
                self._started(message, moment)
            case "job_finished":
                self._ended(message["job_id"], TaskState.COMPLETE, moment)
            case "progress":
                self._journal.write("progress", done=message["done"], total=message["total"])
            case "error":
                self._complained(message["message"], moment)
            case "group_error":
                self.deserted_service |= any(
                    "(service)" in job for job in message["job_error_info"]
                )
            case "job_error":
                self._failed(message["jobid"], message.get("log") or [], moment)

    def _started(self, message: Message, moment: datetime) -> None:
        files = {"event": "files", "inputs": message["input"], "outputs": message["output"]}
        self._note_files(files)
        self._journal.write("files", inputs=message["input"], outputs=message["output"])
        if not (message["output"] or message["shellcmd"] or message["log"]):
            return
        jobid, wildcards = message["jobid"], message["wildcards"] or {}
        key = job_key(message["rule_name"], wildcards, message["output"])
        self._book.add(jobid, key)
        attempt = self._attempts[jobid] = self._attempts.get(jobid, 0) + 1
        task = TaskLog(
            id=self._book.id(jobid),
            name=message["rule_name"],
            state=TaskState.RUNNING,
            attempt=self._book.attempt(jobid, attempt),
            wildcards=wildcards,
            command=message["shellcmd"],
            threads=message["threads"],
            started=moment,
        )
        self._running[jobid] = (task, message)
        self._journal.task(task, key=key)

    def _note_files(self, record: Message) -> None:
        if record["event"] == "files":
            outputs = record["outputs"]
            self._made.update(dict.fromkeys(outputs))
            (self._consumed if outputs else self._wanted).update(record["inputs"])

    def _ended(self, jobid: int, state: TaskState, moment: datetime, code: int | None = 0) -> None:
        if jobid in self._running:
            task, message = self._running.pop(jobid)
            if state is TaskState.COMPLETE:
                self._finished.update(dict.fromkeys(message["output"]))
            self._journal.task(replace(task, state=state, ended=moment, exit_code=code))

    def _complained(self, text: str, moment: datetime) -> None:
        self._complaints.append(text)
        if (missing := _INCOMPLETE.search(text)) is not None:
            self._failed(int(missing[1]), [], moment)

    def _failed(self, jobid: int, logs: list[str], moment: datetime) -> None:
        if jobid not in self._running:
            return
        task, message = self._running[jobid]
        complaint = self._complaint_of(message)
        code = exit_status(complaint)
        root, words = self._workspace.root, ""
        if (remote := job_log(logs, root)) is not None:
            code, words = read_job_log(root / remote)
        state = TaskState.CANCELED if self._canceled else TaskState.EXECUTOR_ERROR
        self._ended(jobid, state, moment, code)
        wildcards = ", ".join(f"{name}={value}" for name, value in task.wildcards.items())
        evidence = [*relative_logs(self._workspace, tuple(logs)), remote or "stderr.log"]
        failure = task_failure(task.name, wildcards, code, complaint, root, evidence)
        if words and failure.stderr == remote:
            failure = replace(failure, message=f"rule {task.name} ended: {words}")
        self._failures[jobid] = failure

    def _complaint_of(self, message: Message) -> str:
        """The message that shows the job's command, else the newest one."""
        command = (message["shellcmd"] or "").strip()
        for text in reversed(self._complaints):
            if command and command in text:
                return text
        return self._complaints[-1] if self._complaints else ""

    def cancel(self) -> None:
        self._canceled = True

    def ended(self, code: int) -> None:
        """The command has ended: the outputs, or the failure of each job that stayed failed."""
        if code == 0:
            final = [p for p in self._made if p in self._wanted or p not in self._consumed]
            self._tell_outputs(final)
            return
        if not self._canceled:
            self._tell_outputs(self._finished)  # which of them are targets is not known yet
        root = self._workspace.root
        for failure in self._failures.values():
            self._journal.error(failure)
        if not self._failures:
            words = self._complaints[0] if self._complaints else last_words(root / "stderr.log")
            message = shorten(words, root) or f"Snakemake ended with exit status {code}"
            self._journal.error(RunFailure(message, exit_code=code, stderr="stderr.log"))

    def _tell_outputs(self, paths: Iterable[str]) -> None:
        outputs = OutputFiles(self._workspace)
        for path in paths:
            outputs.add(path)
        self._journal.outputs(outputs.files, outputs.problems)
