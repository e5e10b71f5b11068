"""Client: AsyncClient without `await`, for scripts, notebooks and tests."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self, TypeVar

from wesemu.client.ags import JobDetail, JobLine
from wesemu.client.async_client import AsyncClient, AsyncRun, Files, Lanes, RunView, values
from wesemu.client.buckets import AsyncBucket, ObjectEntry
from wesemu.client.control import ReceivedRequest
from wesemu.client.transport import ClientError
from wesemu.client.wes import Output, RunDetail, RunLine, pauses
from wesemu.runs.model import JsonObject, JsonValue

T = TypeVar("T")

_CANCEL_SECONDS = 0.05
_SIGNAL_SECONDS = 0.5
"""A signal that arrives just before a wait, or in another thread, does not end it."""


def run_in_thread(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in an event loop of its own and return its result.

    The loop runs in a new thread, so this works also while the caller's thread runs a loop, and
    leaves that thread's loop alone. The thread ends before this function returns.
    """
    __tracebackhide__ = True  # pytest shows the caller's line
    result: Future[T] = Future()
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]] = []
    done = Event()

    async def main() -> T:
        task = asyncio.ensure_future(coroutine)
        running.append((asyncio.get_running_loop(), task))
        return await task

    def work() -> None:
        try:
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                value = runner.run(main())
        except BaseException as error:
            result.set_exception(error)
        else:
            result.set_result(value)
        finally:
            done.set()

    thread = Thread(target=work, name="wesemu client", daemon=True)
    # In Python 3.11 and 3.12, an interrupted Thread.join takes the thread for ended.
    try:
        thread.start()
        while not done.wait(_SIGNAL_SECONDS):  # Python handles signals in between
            pass
    except RuntimeError:  # too many threads, or too little memory for one
        coroutine.close()
        raise
    except BaseException:  # Ctrl-C
        while not done.wait(_CANCEL_SECONDS):  # its loop may not have begun yet
            for loop, task in running:
                with suppress(RuntimeError):  # the loop has just ended
                    loop.call_soon_threadsafe(task.cancel)
        raise
    finally:
        if thread.ident is not None:
            thread.join()
    error = result.exception()
    if isinstance(error, ClientError):  # the frames below are those of the client, not of the error
        raise error.with_traceback(None)
    return result.result()


class Client:
    """AsyncClient without `await`: the same methods, which return when the server has answered.

    Nothing stays open between two calls, so there is nothing to close. Works in the main thread,
    in other threads and beside a running event loop, such as in a notebook.
    """

    def __init__(self, server: str | None = None, *, token: str | None = None) -> None:
        self._token = token
        self.server = AsyncClient(server).server
        self.ags = AgsJobs(self)
        self.clock = ClientClock(self)
        self.faults = Faults(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.server!r})"

    def call(self, action: Callable[[AsyncClient], Awaitable[T]]) -> T:
        """Return the result of an asynchronous `action`, for operations without a method here."""
        __tracebackhide__ = True

        async def act() -> T:
            async with AsyncClient(self.server, token=self._token) as client:
                return await action(client)

        return run_in_thread(act())

    def ready(self) -> bool:
        """Return whether runs can start; False also if no server answers."""
        return self.call(lambda client: client.ready())

    def run(
        self,
        name: str,
        *,
        reads: Lanes,
        reference: str,
        bucket: str | None = None,
        tags: Mapping[str, str] | None = None,
        engine_parameters: Mapping[str, str] | None = None,
        **params: JsonValue,
    ) -> "ClientRun":
        """Submit a run of the bundled pipeline `name`; see AsyncClient.run."""
        return self._run(
            lambda client: client.run(
                name,
                reads=reads,
                reference=reference,
                bucket=bucket,
                tags=tags,
                engine_parameters=engine_parameters,
                **params,
            )
        )

    def submit(
        self,
        snakefile: str | Path,
        params: JsonObject | None = None,
        *,
        files: Files | None = None,
        workflow_type: str | None = None,
        workflow_type_version: str | None = None,
        tags: Mapping[str, str] | None = None,
        engine_parameters: Mapping[str, str] | None = None,
    ) -> "ClientRun":
        """Submit a workflow: its text, its file, a folder or a URL; see AsyncClient.submit."""
        return self._run(
            lambda client: client.submit(
                snakefile,
                params,
                files=files,
                workflow_type=workflow_type,
                workflow_type_version=workflow_type_version,
                tags=tags,
                engine_parameters=engine_parameters,
            )
        )

    def get(self, name: str) -> "ClientRun":
        """Return the run with this id, handle or AGS job name."""
        return self._run(lambda client: client.get(name))

    def runs(self, *, limit: int | None = None) -> list[RunLine]:
        """Return the runs, newest first."""
        return self.call(lambda client: client.runs(limit=limit))

    def bucket(self, name: str) -> "Bucket":
        """Return a bucket, which need not exist."""
        return Bucket(self, name)

    def buckets(self) -> list[str]:
        """Return the names of all buckets."""
        return self.call(lambda client: client.buckets())

    def requests(self) -> list[ReceivedRequest]:
        """Return the last requests to the server, oldest first."""
        return self.call(lambda client: client.control.requests())

    def reset(self, *, buckets: bool = False) -> int:
        """Remove all runs, and the buckets if asked. Return the number of removed runs."""
        return self.call(lambda client: client.control.reset(buckets=buckets))

    def references(self) -> list[JsonObject]:
        """Return the registered references, and those that are being added."""
        return self.call(lambda client: client.control.references())

    def add_reference(self, name: str, source: Path | str, *, mapper: str = "bwa") -> JsonObject:
        """Register a FASTA as `name` and wait for its index: a file, or a location in a bucket."""
        return self.call(lambda client: client.control.add_reference(name, source, mapper=mapper))

    def remove_reference(self, name: str) -> None:
        """Remove a registered reference. Runs that still use it fail."""
        self.call(lambda client: client.control.remove_reference(name))

    def save_snapshot(self, target: Path | str) -> Path:
        """Write buckets, references, ended runs and emulated time to the file `target`."""
        return self.call(lambda client: client.control.save_snapshot(Path(target)))

    def load_snapshot(self, source: Path | str) -> JsonObject:
        """Replace the server's runs, buckets and time by those of a snapshot."""
        return self.call(lambda client: client.control.load_snapshot(Path(source)))

    def _run(self, action: Callable[[AsyncClient], Awaitable[AsyncRun]]) -> "ClientRun":
        return ClientRun(self, self.call(action).detail)


@dataclass(frozen=True)
class RunOutput(Output):
    """A result that can be fetched. Each method raises ClientError."""

    client: Client = field(repr=False, compare=False)

    def download(self, target: Path | str = ".") -> Path:
        """Write the result to the file `target`, or into the folder `target`. Return the file.

        A text that ends with "/" is a folder, which is created if it is missing.
        """
        return self.client.call(lambda client: client.wes.download(self, target))

    def read(self) -> bytes:
        """Return the content."""
        return self.client.call(lambda client: client.wes.content(self.download_url))


class ClientRun(RunView):
    """One run. `detail` is its state at the last call of a method. Methods raise ClientError."""

    def __init__(self, client: Client, detail: RunDetail) -> None:
        super().__init__(detail)
        self._client = client

    @property
    def outputs(self) -> dict[str, RunOutput]:
        """The results by name; empty until the run is complete."""
        return {
            name: RunOutput(**values(output), client=self._client)
            for name, output in self.detail.outputs.items()
        }

    def refresh(self) -> Self:
        """Ask the server for the present state."""
        self.detail = self._client.call(lambda client: client.wes.run(self.id))
        return self

    def follow(self) -> Iterator[Self]:
        """Yield the run at each change of its state or tasks, until it has ended."""
        for changed in self._polled():
            if changed:
                yield self

    def wait(
        self, timeout: float | None = None, *, progress: Callable[[Self], object] | None = None
    ) -> Self:
        """Wait until the run has ended, whatever its state. `progress` is called at each change.

        Raise TimeoutError after `timeout` seconds; the run continues.
        """
        for changed in self._polled(timeout):
            if changed and progress is not None:
                progress(self)
        return self

    def _polled(self, timeout: float | None = None) -> Iterator[bool]:
        """Refresh the run until it has ended; yield whether it changed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        before: RunDetail | None = None
        for pause in pauses():
            changed = self.refresh().has_changed(before)
            before = self.detail
            yield changed
            if self.ended:
                return
            if deadline is not None and time.monotonic() + pause > deadline:
                raise self.has_not_ended(timeout or 0)
            time.sleep(pause)

    def logs(self, task: str | None = None) -> str:
        """Return the stderr of the run, or of the last attempt of its task `task`.

        Raise KeyError if there is no such task.
        """
        return self._client.call(lambda client: AsyncRun(client, self.detail).logs(task))

    def cancel(self) -> None:
        self._client.call(lambda client: client.wes.cancel(self.id))

    def remove(self) -> None:
        """Remove the ended run and its logs; published results stay."""
        self._client.call(lambda client: client.wes.remove(self.id))

    def crate(self, target: Path | str) -> Path:
        """Write the ended run as an RO-Crate (ZIP) to the file `target`, or into the folder
        `target`. Return the file."""
        return self._client.call(lambda client: AsyncRun(client, self.detail).crate(target))


class Bucket:
    """One bucket; see AsyncBucket. Each method raises ClientError."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self.name = name

    def create(self) -> Self:
        """Create the bucket. An existing bucket stays unchanged."""
        self._call(lambda bucket: bucket.create())
        return self

    def put(self, key: str, content: bytes | str | Path) -> str:
        """Write an object: bytes, text as UTF-8, or the file at a Path. Return its location."""
        return self._call(lambda bucket: bucket.put(key, content))

    def get(self, key: str) -> bytes:
        """Return the content of an object."""
        return self._call(lambda bucket: bucket.get(key))

    def download(self, key: str, target: Path | str) -> Path:
        """Write an object to the file `target`, or into the folder `target`. Return the file."""
        return self._call(lambda bucket: bucket.download(key, target))

    def list(self, prefix: str = "") -> "list[ObjectEntry]":
        """Return the objects whose keys start with `prefix`, in the order of the keys."""
        return self._call(lambda bucket: bucket.list(prefix))

    def delete(self, key: str) -> None:
        """Remove an object. A missing object is not an error."""
        self._call(lambda bucket: bucket.delete(key))

    def url(self, key: str) -> str:
        """Return the location of an object, as runs take it."""
        return f"oss://{self.name}/{key}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def _call(self, action: Callable[[AsyncBucket], Awaitable[T]]) -> T:
        __tracebackhide__ = True
        return self._client.call(lambda client: action(client.bucket(self.name)))


class AgsJobs:
    """The operations of AGS; see AgsOperations. Each raises ClientError."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def start(self, fields: Mapping[str, str]) -> str:
        """StartWorkflow. Return the name of the job."""
        return self._client.call(lambda client: client.ags.start(fields))

    def jobs(self, *, limit: int | None = None) -> list[JobLine]:
        """DescribeWorkflows, newest first."""
        return self._client.call(lambda client: client.ags.jobs(limit=limit))

    def job(self, name: str) -> JobDetail:
        """DescirbeWorkflow. Return the job with its figures."""
        return self._client.call(lambda client: client.ags.job(name))

    def cancel(self, name: str) -> None:
        """CancelWorkflow. An ended job stays unchanged."""
        self._client.call(lambda client: client.ags.cancel(name))

    def remove(self, name: str) -> None:
        """RemoveWorkflow. The server refuses while the job runs."""
        self._client.call(lambda client: client.ags.remove(name))


class ClientClock:
    """The emulated clock. Each method raises ClientError."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def now(self) -> datetime:
        """Return emulated time."""
        return self._client.call(lambda client: client.clock.now())

    def advance(
        self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> datetime:
        """Advance emulated time by the sum. Return the new time."""
        return self._client.call(
            lambda client: client.clock.advance(
                days=days, hours=hours, minutes=minutes, seconds=seconds
            )
        )

    def set_speed(self, speed: float) -> None:
        """Set the emulated seconds per real second; 0 stops emulated time."""
        self._client.call(lambda client: client.clock.set_speed(speed))


class Faults:
    """Faults to inject; see AsyncFaults. Each method raises ClientError."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def add(self, **fault: JsonValue) -> None:
        """Add a fault, such as `operation="StartWorkflow", status=503, times=1`."""
        self._client.call(lambda client: client.faults.add(**fault))

    def pending(self) -> list[JsonObject]:
        """Return the faults that have not occurred yet."""
        return self._client.call(lambda client: client.faults.pending())

    def clear(self) -> None:
        self._client.call(lambda client: client.faults.clear())
