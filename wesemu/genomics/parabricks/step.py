"""One step of Parabricks from the checks before it to the files that it leaves."""

import hashlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from wesemu.errors import InvalidRequest
from wesemu.genomics.parabricks import preflight, runtimes
from wesemu.genomics.parabricks.commands import Means
from wesemu.genomics.parabricks.failures import CURES, Failure, may_retry, recognise
from wesemu.genomics.parabricks.gpus import NOT_FOUND, Gpu, ask, leased, parse, question
from wesemu.genomics.parabricks.options import Options
from wesemu.genomics.parabricks.preflight import Finding
from wesemu.genomics.parabricks.process import Running
from wesemu.wording import os_reason

TERMINATED = 128 + signal.SIGTERM


class Failed(Exception):
    """The step failed; nothing of it is left."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a step runs and on which GPUs; `low_memory`: with which flags it begins."""

    place: runtimes.Place
    devices: tuple[str, ...]
    low_memory: bool


@dataclass(frozen=True, slots=True)
class Known:
    """What the node is said to have, so that nobody needs to ask: MiB of the smallest card, and
    the driver. None: nvidia-smi is asked."""

    memory_mb: int | None = None
    driver: str | None = None


def prepare(
    options: Options, wanted: int, known: Known, reads: Sequence[Path], temporary: Path
) -> Machine:
    """Look at everything before anything starts, and tell it. Raises Failed when refused."""
    devices = leased(os.environ, wanted)
    if not devices:
        raise Failed(
            Failure("no_gpu", "no GPU was leased to this task", "declare the GPUs in node.gpus")
        )
    place, finding = preflight.choose_place(options)
    _tell(finding)
    assert place is not None
    if place != "native":
        _tell(preflight.check_image(place, options.image or ""))
    gpus, words = _gpus(place, options, devices, known)
    _tell(preflight.check_gpus(gpus, len(devices), words))
    version = preflight.find_version(
        preflight.probe(place, options.image, ["pbrun", "version"], devices), options.image
    )
    _tell(preflight.check_driver(version, gpus[0].driver))
    low_memory, finding = preflight.choose_low_memory(options, gpus)
    _tell(finding)
    _tell(preflight.check_host_memory(options, len(devices)))
    if reads:
        _tell(preflight.check_space(reads, temporary))
    return Machine(place, devices, low_memory)


def _gpus(
    place: runtimes.Place, options: Options, devices: tuple[str, ...], known: Known
) -> tuple[list[Gpu], str]:
    """The step's GPUs: what is known of the node first; in a container they must be seen."""
    answer = ask(
        preflight.probe(place, options.image, question(), devices),
        runtimes.environment(place, devices),
    )
    seen = parse(answer.words)
    if place != "docker":  # nvidia-smi shows all that there are
        seen = [gpu for gpu in seen if gpu.index in devices] or seen[: len(devices)]
    if place == "native" and answer.status == NOT_FOUND:
        seen = [Gpu(device, None, None) for device in devices]
    return [
        replace(
            gpu,
            memory_mb=gpu.memory_mb if known.memory_mb is None else known.memory_mb,
            driver=known.driver or gpu.driver,
        )
        for gpu in seen
    ], answer.words.strip().splitlines()[-1] if answer.status and answer.words.strip() else ""


def _tell(finding: Finding) -> None:
    if finding.verdict == "refused":
        raise Failed(Failure(finding.kind, finding.text, finding.cure))
    cure = f" ({finding.cure})" if finding.cure else ""
    sys.stderr.write(f"parabricks: {finding.subject}: {finding.verdict}: {finding.text}{cure}\n")


@dataclass(frozen=True, slots=True)
class Step:
    """One command of `pbrun`, by its `name`, in the run's working directory."""

    name: str
    options: Options
    machine: Machine
    means: Means
    readable: tuple[Path, ...]

    def run(self, command: Callable[[Means], list[str]], watch: Callable[[Running], None]) -> None:
        """Run it, once more with the low-memory flags where that can help. Raises Failed.

        `watch` is told of every process that is started.
        """
        means = replace(self.means, low_memory=self.machine.low_memory)
        while True:
            failure = self._attempt(command(means), watch)
            if failure is None:
                return
            allowed = self.options.low_memory != "never" and self.options.retry_low_memory
            if not may_retry(failure, low_memory=means.low_memory, allowed=allowed):
                raise Failed(failure)
            sys.stderr.write("parabricks: out of GPU memory; once more with low-memory flags\n")
            means = replace(means, low_memory=True)

    def _attempt(self, words: list[str], watch: Callable[[Running], None]) -> Failure | None:
        directory = Path.cwd()
        container = ""
        command = words
        if self.machine.place != "native":
            container = container_name(directory, self.name)
            command = self._in_container(words, container, directory)
        if self.machine.place != "docker":
            container = ""
        sys.stderr.write(f"parabricks: {' '.join(command)}\n")
        sys.stderr.flush()
        environment = runtimes.environment(self.machine.place, self.machine.devices)
        with ending_with_us() as note:
            running = Running(command, environment, container)
            note(running)
            watch(running)
            status, last = running.wait()
        return recognise(" ".join(words[:2]), status, last) if status else None

    def _in_container(self, words: list[str], name: str, directory: Path) -> list[str]:
        temporary = Path(self.means.temporary)
        container = runtimes.Container(
            image=self.options.image or "",
            devices=self.machine.devices,
            folders=runtimes.mounts(readable=self.readable, writable=[directory, temporary]),
            directory=directory,
            home=temporary,
            name=name,
            user=f"{os.getuid()}:{os.getgid()}",
        )
        wrap = runtimes.docker if self.machine.place == "docker" else runtimes.apptainer
        try:
            return wrap(container, words)
        except InvalidRequest as error:
            raise Failed(Failure("other", error.message, CURES["other"])) from error


def container_name(directory: Path, step: str) -> str:
    """The same for every attempt at a step of a run, so that no two can be at work."""
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return f"wesemu-{digest}-{step}"


@contextmanager
def ending_with_us() -> Iterator[Callable[[Running], None]]:
    """Until its end, SIGTERM and SIGINT stop the process noted here and then this one."""
    running: list[Running] = []

    def stop(number: int, frame: FrameType | None) -> None:
        for process in running:
            process.stop()
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield running.append
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def scratch(name: str, options: Options) -> Iterator[tuple[Path, Path]]:
    """A folder in the working directory for what becomes a result, and one for temporary files
    where the settings say. Both go at the end."""
    here = Path.cwd() / f".parabricks-{name}"
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir()
    parent = Path(options.temporary) if options.temporary else here
    try:
        temporary = Path(tempfile.mkdtemp(prefix="wesemu-parabricks-", dir=parent))
    except OSError as error:
        shutil.rmtree(here, ignore_errors=True)
        raise Failed(
            Failure(
                "other",
                f"no temporary folder can be made in {parent}: {os_reason(error)}",
                "correct parabricks.temporary",
            )
        ) from error
    try:
        yield here, temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(here, ignore_errors=True)
