"""One step of Parabricks: the reference's files, command lines, checks, attempts and clean-up."""

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
    GPU_QUERY,
    NOT_FOUND,
    LeasedGpu,
    ParabricksOptions,
    PreflightCheck,
    Version,
    leased,
    parse,
    query,
)
from wesemu.util.text import os_reason

# The reference for pbrun: FASTA and indexes as regular files in one folder.

FASTA_INDEX = ".fai"


def lay_out(
    reference: Path, folder: Path, suffixes: Iterable[str] = (FASTA_INDEX, *SUFFIXES)
) -> Path:
    """Hard-link the FASTA, its indexes and its list of ALT contigs (if any) into `folder`.

    Copies files from another file system. Raises InputError for a missing index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "genome.fa"
    _link_or_copy(reference, target)
    for suffix in suffixes:
        source = Path(f"{reference}{suffix}")
        if not source.exists():
            raise InputError(
                f"{reference} has no {suffix} beside it, which Parabricks needs. Index it with "
                "`wesemu reference add`, or samtools faidx and bwa index.",
                file=str(reference),
            )
        _link_or_copy(source, Path(f"{target}{suffix}"))
    alternates = Path(f"{reference}.alt")
    if alternates.exists():
        _link_or_copy(alternates, Path(f"{target}.alt"))
    return target


def _link_or_copy(source: Path, target: Path) -> None:
    source = source.resolve()
    try:
        os.link(source, target)
    except OSError:  # another file system, no support for links, or a file of another user
        shutil.copyfile(source, target)


# Command lines of `pbrun`, by NVIDIA's reference of Parabricks 4.8 and its release notes.

Caller = Literal["haplotypecaller", "deepvariant"]

BWA_OPTIONS = "-K 10000000 -Y"
"""The same as for bwa on the CPU."""

MANY_LANES = 8
"""With more lanes, fq2bam reads them from a file."""

_FASTQ_LISTS: Version = (4, 5)
_COMPRESSED_VARIANTS: Version = (4, 5, 1)


@dataclass(frozen=True, slots=True)
class StepResources:
    """Resources of a step: `gpus` devices, `threads` of the CPU, the folder `temporary`, and host
    memory up to `memory_limit` GB (None: pbrun decides)."""

    gpus: int
    threads: int
    temporary: str
    low_memory: bool = False
    memory_limit: int | None = None


def fq2bam(
    reference: str,
    lanes: Sequence[Lane],
    bam: str,
    resources: StepResources,
    *,
    metrics: str | None,
    optical_distance: int = 0,
    fastq_list: str | None = None,
) -> list[str]:
    """Return the command that maps all lanes and sorts; it marks duplicates if `metrics` is set.

    `fastq_list` is a file with the lines of `fastq_lines`, which replaces the lanes.
    """
    argv = ["pbrun", "fq2bam", "--ref", reference]
    if fastq_list is not None:
        argv += ["--in-fq-list", fastq_list]
    else:
        for lane in lanes:
            argv += ["--in-fq", *_lane_words(lane)]
    argv += ["--out-bam", bam, f"--bwa-options={BWA_OPTIONS}"]
    if metrics is None:
        argv.append("--no-markdups")
    else:
        argv += ["--out-duplicate-metrics", metrics]
        if optical_distance:
            argv += ["--optical-duplicate-pixel-distance", str(optical_distance)]
    argv += ["--bwa-cpu-thread-pool", str(resources.threads)]
    if resources.low_memory:
        argv.append("--low-memory")
    if resources.memory_limit is not None:
        argv += ["--memory-limit", str(resources.memory_limit)]
    return [*argv, *_common(resources)]


def fastq_lines(lanes: Sequence[Lane], version: Version | None) -> str | None:
    """Return the content of a file for `--in-fq-list`, a line for each lane.

    Return None for few lanes, for a version without that option, and for lanes with a blank in a
    path or read group: pbrun splits the lines at blanks.
    """
    if len(lanes) <= MANY_LANES or version is None or version < _FASTQ_LISTS:
        return None
    words = [_lane_words(lane) for lane in lanes]
    if any(len(word.split()) != 1 for lane in words for word in lane):
        return None
    return "".join(f"{' '.join(lane)}\n" for lane in words)


def _lane_words(lane: Lane) -> list[str]:
    return [lane.first, lane.second or "", lane.read_group.replace("\t", "\\t")]


def variants_file(
    caller: Caller, version: Version | None, gpus: int, *, gvcf: bool, targets: str | None
) -> str:
    """Return the name for `--out-variants`.

    It is compressed where pbrun can: from 4.5.1 on, if the genome is not divided among the GPUs.
    deepvariant writes a VCF beside a gVCF; NVIDIA describes the names of both for plain files only.
    """
    name = "calls.g.vcf" if gvcf else "calls.vcf"
    able = version is not None and version >= _COMPRESSED_VARIANTS and not _divided(gpus, targets)
    return f"{name}.gz" if able and not (gvcf and caller == "deepvariant") else name


def _divided(gpus: int, targets: str | None) -> bool:
    """Whether each GPU calls its own part of the genome. pbrun refuses this with targets."""
    return gpus > 1 and targets is None


def call(
    caller: Caller,
    reference: str,
    bam: str,
    variants: str,
    resources: StepResources,
    *,
    gvcf: bool = False,
    ploidy: int = 2,
    targets: str | None = None,
) -> list[str]:
    """Return the command that calls variants.

    `variants` has the name of `variants_file`. With `gvcf` it is a gVCF; deepvariant writes a VCF
    beside it. `targets` is a BED file. Only haplotypecaller takes a `ploidy` of 1.
    """
    argv = ["pbrun", caller, "--ref", reference, "--in-bam", bam, "--out-variants", variants]
    if gvcf:
        argv.append("--gvcf")
    if ploidy != 2:
        argv += ["--ploidy", str(ploidy)]
    if targets is not None:
        argv += ["--interval-file", targets]
    if _divided(resources.gpus, targets):
        # by default a part has two GPUs, and an odd number of GPUs is refused
        argv += ["--run-partition", "--gpu-num-per-partition", "1"]
    if resources.low_memory:
        slim = {
            "haplotypecaller": ["--htvc-low-memory"],
            "deepvariant": ["--num-streams-per-gpu", "1"],
        }
        argv += slim[caller]
    return [*argv, *_common(resources)]


def _common(resources: StepResources) -> list[str]:
    return ["--num-gpus", str(resources.gpus), "--tmp-dir", resources.temporary]


# Run a step.


class Failed(Exception):
    """The step failed, and its files were removed."""

    def __init__(self, failure: StepFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a step runs, on which GPUs, by which Parabricks (None: unknown), and whether it begins
    with the low-memory flags."""

    runtime: containers.RuntimeKind
    devices: tuple[str, ...]
    version: Version | None
    low_memory: bool


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Settings of the node: MiB of the smallest card, and the driver. None: ask nvidia-smi."""

    memory_mb: int | None = None
    driver: str | None = None


def prepare(
    options: ParabricksOptions,
    wanted: int,
    known: NodeFacts,
    reads: Sequence[Path],
    temporary: Path,
) -> Machine:
    """Run and print all checks. Raises Failed if one refuses."""
    devices = leased(os.environ, wanted)
    if not devices:
        raise Failed(
            StepFailure("no_gpu", "no GPU was leased to this task", "declare the GPUs in node.gpus")
        )
    runtime, finding = preflight.choose_runtime(options)
    _report(finding)
    assert runtime is not None
    if runtime != "native":
        _report(preflight.check_image(runtime, options.image or ""))
    gpus, message = _gpus(runtime, options, devices, known)
    _report(preflight.check_gpus(gpus, len(devices), message))
    version = preflight.find_version(
        preflight.probe(runtime, options.image, ["pbrun", "version"], devices), options.image
    )
    _report(preflight.check_version(version))
    _report(preflight.check_driver(version, gpus[0].driver))
    low_memory, finding = preflight.choose_low_memory(options, gpus)
    _report(finding)
    _report(preflight.check_host_memory(options, len(devices)))
    if reads:
        _report(preflight.check_space(reads, temporary))
    return Machine(runtime, devices, version, low_memory)


def _gpus(
    runtime: containers.RuntimeKind,
    options: ParabricksOptions,
    devices: tuple[str, ...],
    known: NodeFacts,
) -> tuple[list[LeasedGpu], str]:
    """Return the step's GPUs, with the known facts of the node, and the last line of a failure.

    Queries nvidia-smi, because a container may see fewer GPUs than the machine has.
    """
    result = query(
        preflight.probe(runtime, options.image, GPU_QUERY, devices),
        containers.environment(runtime, devices),
    )
    seen = parse(result.text)
    if runtime != "docker":  # nvidia-smi shows all GPUs of the machine
        seen = [gpu for gpu in seen if gpu.index in devices] or seen[: len(devices)]
    if runtime == "native" and result.status == NOT_FOUND:
        seen = [LeasedGpu(device, None, None) for device in devices]
    return [
        replace(
            gpu,
            memory_mb=gpu.memory_mb if known.memory_mb is None else known.memory_mb,
            driver=known.driver or gpu.driver,
        )
        for gpu in seen
    ], result.text.strip().splitlines()[-1] if result.status and result.text.strip() else ""


def _report(finding: PreflightCheck) -> None:
    if finding.verdict == "refused":
        raise Failed(StepFailure(finding.kind, finding.text, finding.cure))
    cure = f" ({finding.cure})" if finding.cure else ""
    sys.stderr.write(f"parabricks: {finding.subject}: {finding.verdict}: {finding.text}{cure}\n")


@dataclass(frozen=True, slots=True)
class Step:
    """One `pbrun` command in the working directory, run again with less memory if that helps."""

    name: str
    options: ParabricksOptions
    machine: Machine
    resources: StepResources
    readable: tuple[Path, ...]

    def run(
        self, command: Callable[[StepResources], list[str]], watch: Callable[[Running], None]
    ) -> None:
        """Run the command, and again with the low-memory flags if that can help. Raises Failed.

        `watch` is called with every process that is started.
        """
        resources = replace(self.resources, low_memory=self.machine.low_memory)
        while True:
            failure = self._attempt(command(resources), watch)
            if failure is None:
                return
            allowed = self.options.low_memory != "never" and self.options.retry_low_memory
            if not may_retry(failure, low_memory=resources.low_memory, allowed=allowed):
                raise Failed(failure)
            sys.stderr.write("parabricks: out of GPU memory; retrying with low-memory flags\n")
            resources = replace(resources, low_memory=True)

    def _attempt(self, argv: list[str], watch: Callable[[Running], None]) -> StepFailure | None:
        directory = Path.cwd()
        container = ""
        command = argv
        if self.machine.runtime != "native":
            container = container_name(directory, self.name)
            command = self._in_container(argv, container, directory)
        if self.machine.runtime != "docker":
            container = ""
        sys.stderr.write(f"parabricks: {' '.join(command)}\n")
        sys.stderr.flush()
        environment = containers.environment(self.machine.runtime, self.machine.devices)
        with stopped_by_signals() as register:
            running = Running(command, environment, container)
            register(running)
            watch(running)
            status, output = running.wait()
        return recognise(" ".join(argv[:2]), status, output) if status else None

    def _in_container(self, argv: list[str], name: str, directory: Path) -> list[str]:
        temporary = Path(self.resources.temporary)
        container = containers.Container(
            image=self.options.image or "",
            devices=self.machine.devices,
            folders=containers.mounts(readable=self.readable, writable=[directory, temporary]),
            directory=directory,
            home=temporary,
            name=name,
            user=f"{os.getuid()}:{os.getgid()}",
        )
        wrap = containers.docker if self.machine.runtime == "docker" else containers.apptainer
        try:
            return wrap(container, argv)
        except InvalidRequest as error:
            raise Failed(StepFailure("other", error.message, CURES["other"])) from error


def container_name(directory: Path, step: str) -> str:
    """Return one name for all attempts at a step of a run, so that two cannot run at once."""
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return f"wesemu-{digest}-{step}"


@contextmanager
def stopped_by_signals() -> Iterator[Callable[[Running], None]]:
    """While the context lasts, SIGTERM and SIGINT stop the registered process, then this one."""
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
    """Make a folder for results in the working directory, and one for temporary files.

    The settings choose the place of the latter. Both are removed at the end.
    """
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
                f"a temporary folder cannot be made in {parent}: {os_reason(error)}",
                "correct parabricks.temporary",
            )
        ) from error
    try:
        yield here, temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(here, ignore_errors=True)
