"""One step of Parabricks from the checks before it to the files that it leaves."""

import hashlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Literal

from wesemu.errors import InputError, InvalidRequest
from wesemu.genomics.bwa_index import SUFFIXES
from wesemu.genomics.mappers import Lane
from wesemu.genomics.parabricks import container as containers
from wesemu.genomics.parabricks import preflight
from wesemu.genomics.parabricks.container import Running
from wesemu.genomics.parabricks.failures import CURES, StepFailure, may_retry, recognise
from wesemu.genomics.parabricks.preflight import (
    NOT_FOUND,
    LeasedGpu,
    ParabricksOptions,
    PreflightCheck,
    ask,
    leased,
    parse,
    question,
)
from wesemu.util.text import os_reason

# A reference as pbrun wants it: FASTA and indexes as regular files in one folder.


FASTA_INDEX = ".fai"


def lay_out(
    reference: Path, folder: Path, suffixes: Iterable[str] = (FASTA_INDEX, *SUFFIXES)
) -> Path:
    """Hard links in `folder` (copies where the disk is another one) of the FASTA, its indexes and
    the list of alternate contigs, if there is one. Raises InputError for an index that is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "genome.fa"
    _put(reference, target)
    for suffix in suffixes:
        source = Path(f"{reference}{suffix}")
        if not source.exists():
            raise InputError(
                f"{reference} has no {suffix} beside it, which Parabricks needs. Index it with "
                "`wesemu reference add`, or samtools faidx and bwa index.",
                file=str(reference),
            )
        _put(source, Path(f"{target}{suffix}"))
    alternates = Path(f"{reference}.alt")
    if alternates.exists():
        _put(alternates, Path(f"{target}.alt"))
    return target


def _put(source: Path, target: Path) -> None:
    source = source.resolve()
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links, or somebody else's file
        shutil.copyfile(source, target)


# The words of every `pbrun` command, as NVIDIA's toolkit reference of 4.7 has them.


Caller = Literal["haplotypecaller", "deepvariant"]

BWA_OPTIONS = "-K 10000000 -Y"
"""Those of the CPU's bwa."""


@dataclass(frozen=True, slots=True)
class StepResources:
    """What a step may use: `gpus` devices, `threads` of the CPU, the folder `temporary`, and host
    memory up to `memory_limit` GB (None: pbrun's own choice)."""

    gpus: int
    threads: int
    temporary: str
    low_memory: bool = False
    memory_limit: int | None = None


def fq2bam(
    reference: str,
    lanes: Sequence[Lane],
    bam: str,
    means: StepResources,
    *,
    metrics: str | None,
    optical_distance: int = 0,
) -> list[str]:
    """Map all lanes, sort and mark duplicates; `metrics` is None where they are not marked."""
    words = ["pbrun", "fq2bam", "--ref", reference]
    for lane in lanes:
        group = lane.read_group.replace("\t", "\\t")
        words += ["--in-fq", lane.first, lane.second or "", group]
    words += ["--out-bam", bam, f"--bwa-options={BWA_OPTIONS}"]
    if metrics is None:
        words.append("--no-markdups")
    else:
        words += ["--out-duplicate-metrics", metrics]
        if optical_distance:
            words += ["--optical-duplicate-pixel-distance", str(optical_distance)]
    words += ["--bwa-cpu-thread-pool", str(means.threads)]
    if means.low_memory:
        words.append("--low-memory")
    if means.memory_limit is not None:
        words += ["--memory-limit", str(means.memory_limit)]
    return [*words, *_common(means)]


def call(
    caller: Caller,
    reference: str,
    bam: str,
    variants: str,
    means: StepResources,
    *,
    gvcf: bool = False,
    ploidy: int = 2,
    targets: str | None = None,
) -> list[str]:
    """Call variants. With `gvcf` haplotypecaller writes a gVCF to `variants` instead of a VCF,
    deepvariant one beside it. `targets` is a BED file; a `ploidy` of 1 is haplotypecaller's."""
    words = ["pbrun", caller, "--ref", reference, "--in-bam", bam, "--out-variants", variants]
    if gvcf:
        words.append("--gvcf")
    if ploidy != 2:
        words += ["--ploidy", str(ploidy)]
    if targets is not None:
        words += ["--interval-file", targets]
    if means.low_memory:
        slim = {
            "haplotypecaller": ["--htvc-low-memory"],
            "deepvariant": ["--num-streams-per-gpu", "1"],
        }
        words += slim[caller]
    return [*words, *_common(means)]


def _common(means: StepResources) -> list[str]:
    return ["--num-gpus", str(means.gpus), "--tmp-dir", means.temporary]


TERMINATED = 128 + signal.SIGTERM


class Failed(Exception):
    """The step failed; nothing of it is left."""

    def __init__(self, failure: StepFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a step runs and on which GPUs; `low_memory`: with which flags it begins."""

    place: containers.RuntimeKind
    devices: tuple[str, ...]
    low_memory: bool


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the node is said to have, so that nobody needs to ask: MiB of the smallest card, and
    the driver. None: nvidia-smi is asked."""

    memory_mb: int | None = None
    driver: str | None = None


def prepare(
    options: ParabricksOptions,
    wanted: int,
    known: NodeFacts,
    reads: Sequence[Path],
    temporary: Path,
) -> Machine:
    """Look at everything before anything starts, and tell it. Raises Failed when refused."""
    devices = leased(os.environ, wanted)
    if not devices:
        raise Failed(
            StepFailure("no_gpu", "no GPU was leased to this task", "declare the GPUs in node.gpus")
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
    place: containers.RuntimeKind,
    options: ParabricksOptions,
    devices: tuple[str, ...],
    known: NodeFacts,
) -> tuple[list[LeasedGpu], str]:
    """The step's GPUs: what is known of the node first; in a container they must be seen."""
    answer = ask(
        preflight.probe(place, options.image, question(), devices),
        containers.environment(place, devices),
    )
    seen = parse(answer.words)
    if place != "docker":  # nvidia-smi shows all that there are
        seen = [gpu for gpu in seen if gpu.index in devices] or seen[: len(devices)]
    if place == "native" and answer.status == NOT_FOUND:
        seen = [LeasedGpu(device, None, None) for device in devices]
    return [
        replace(
            gpu,
            memory_mb=gpu.memory_mb if known.memory_mb is None else known.memory_mb,
            driver=known.driver or gpu.driver,
        )
        for gpu in seen
    ], answer.words.strip().splitlines()[-1] if answer.status and answer.words.strip() else ""


def _tell(finding: PreflightCheck) -> None:
    if finding.verdict == "refused":
        raise Failed(StepFailure(finding.kind, finding.text, finding.cure))
    cure = f" ({finding.cure})" if finding.cure else ""
    sys.stderr.write(f"parabricks: {finding.subject}: {finding.verdict}: {finding.text}{cure}\n")


@dataclass(frozen=True, slots=True)
class Step:
    """One command of `pbrun`, by its `name`, in the run's working directory."""

    name: str
    options: ParabricksOptions
    machine: Machine
    means: StepResources
    readable: tuple[Path, ...]

    def run(
        self, command: Callable[[StepResources], list[str]], watch: Callable[[Running], None]
    ) -> None:
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

    def _attempt(self, words: list[str], watch: Callable[[Running], None]) -> StepFailure | None:
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
        environment = containers.environment(self.machine.place, self.machine.devices)
        with ending_with_us() as note:
            running = Running(command, environment, container)
            note(running)
            watch(running)
            status, last = running.wait()
        return recognise(" ".join(words[:2]), status, last) if status else None

    def _in_container(self, words: list[str], name: str, directory: Path) -> list[str]:
        temporary = Path(self.means.temporary)
        container = containers.Container(
            image=self.options.image or "",
            devices=self.machine.devices,
            folders=containers.mounts(readable=self.readable, writable=[directory, temporary]),
            directory=directory,
            home=temporary,
            name=name,
            user=f"{os.getuid()}:{os.getgid()}",
        )
        wrap = containers.docker if self.machine.place == "docker" else containers.apptainer
        try:
            return wrap(container, words)
        except InvalidRequest as error:
            raise Failed(StepFailure("other", error.message, CURES["other"])) from error


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
def scratch(name: str, options: ParabricksOptions) -> Iterator[tuple[Path, Path]]:
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
            StepFailure(
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
