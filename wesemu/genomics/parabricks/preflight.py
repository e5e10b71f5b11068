"""Checks before `pbrun` starts, each with advice; also for `wesemu doctor`.

Contains the query of GPUs by nvidia-smi, the settings of Parabricks, and the checks.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import psutil

from wesemu.genomics.parabricks.container import RuntimeKind
from wesemu.genomics.parabricks.failures import CURES, Kind

if TYPE_CHECKING:
    from wesemu.genomics.tools import Tool

NOT_FOUND = 127
"""The status of a program that does not exist."""

_TIMEOUT_SECONDS = 30
GPU_QUERY = (
    "nvidia-smi",
    "--query-gpu=index,memory.total,driver_version,name",
    "--format=csv,noheader,nounits",
)


@dataclass(frozen=True, slots=True)
class LeasedGpu:
    """A GPU of a step: `memory_mb` in MiB, `driver` as in "535.104.05"."""

    index: str
    memory_mb: int | None
    driver: str | None
    name: str = ""


@dataclass(frozen=True, slots=True)
class ProgramOutput:
    """Exit status and output of a short command; status 127 if the program does not exist."""

    status: int
    text: str


def leased(environment: Mapping[str, str], wanted: int) -> tuple[str, ...]:
    """Return at most `wanted` devices of the lease (or of Slurm); without a lease, the first."""
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return tuple(str(number) for number in range(wanted))
    return tuple(part.strip() for part in given.split(",") if part.strip())[:wanted]


def query(argv: Sequence[str], added: Mapping[str, str] | None = None) -> ProgramOutput:
    """Run a short command, for half a minute at most, with `added` variables."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(added or {})},
            timeout=_TIMEOUT_SECONDS,
            text=True,
            errors="replace",
            check=False,
        )
    except subprocess.TimeoutExpired:
        return ProgramOutput(124, f"{argv[0]} did not answer for {_TIMEOUT_SECONDS} s")
    except OSError as error:
        return ProgramOutput(NOT_FOUND, str(error))
    return ProgramOutput(done.returncode, done.stdout)


def parse(text: str) -> list[LeasedGpu]:
    """Return the GPUs in the output of nvidia-smi; ignore other lines."""
    gpus = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",", 3)]
        if len(fields) == 4 and fields[0].isdigit():
            memory = int(fields[1]) if fields[1].isdigit() else None
            gpus.append(LeasedGpu(fields[0], memory, fields[2] or None, fields[3]))
    return gpus


# The settings of Parabricks.

Runtime = Literal["auto", "native", "docker", "apptainer", "none"]
LowMemory = Literal["auto", "always", "never"]


@dataclass(frozen=True, slots=True)
class ParabricksOptions:
    """The settings of Parabricks.

    `image` names a local docker image, or is the path of a .sif file. With `low_memory` auto, the
    memory of the GPU decides. `temporary` is a folder on a fast local disk (None: in the run
    directory). `memory_limit` is `--memory-limit` in GB of host memory.
    """

    runtime: Runtime = "auto"
    image: str | None = None
    low_memory: LowMemory = "auto"
    retry_low_memory: bool = True
    temporary: str | None = None
    memory_limit: int | None = None


def options_from(config: Mapping[str, Any]) -> ParabricksOptions:
    """Return the options in the object `parabricks` of the configuration, already validated."""
    return ParabricksOptions(
        runtime=cast(Runtime, config.get("runtime") or "auto"),
        image=config.get("image") or None,
        low_memory=cast(LowMemory, config.get("low_memory") or "auto"),
        retry_low_memory=bool(config.get("retry_low_memory", True)),
        temporary=config.get("temporary") or None,
        memory_limit=config.get("memory_limit") or None,
    )


# The checks.

Verdict = Literal["ok", "chosen", "unknown", "refused"]

LEAST_GPU_MB = 15_000
"""Parabricks wants 16 GB; such cards report from 15,109 MiB on."""

SLIM_GPU_MB = 22_000
"""Below this the low-memory flags are used: NVIDIA wants 24 GB without them, and such cards report
from 22,731 MiB on (an L4 23,034)."""

HOST_GB_A_GPU = 50
_SPACE_TIMES_READS = 3
_LEAST_TIMES_READS = 2
_DRIVERS = (((4, 8), 580), ((4, 6), 535))
_BWA = (((4, 8), "0.7.17"), ((4, 0), "0.7.15"))
"""The bwa whose answers fq2bam gives, by NVIDIA's lists of compatible versions."""
_GIGA = 10**9


@dataclass(frozen=True, slots=True)
class PreflightCheck:
    """The result of one check. `refused` means that pbrun must not start; `cure` is advice."""

    subject: str
    verdict: Verdict
    text: str
    cure: str = ""
    kind: Kind = "other"


def choose_runtime(options: ParabricksOptions) -> tuple[RuntimeKind | None, PreflightCheck]:
    """Choose where pbrun runs: from PATH, or in the image of the settings."""
    runtime: RuntimeKind | None = None
    if options.runtime == "none":
        return None, _refuse(
            "runtime",
            "the setting parabricks.runtime is none",
            "set parabricks.runtime to auto where Parabricks is to be used",
        )
    if options.runtime != "auto":
        runtime = options.runtime
    elif shutil.which("pbrun"):
        runtime = "native"
    elif options.image:
        is_file = options.image.endswith(".sif") or Path(options.image).exists()
        runtime = "apptainer" if is_file else "docker"
    if runtime is None:
        return None, _refuse(
            "runtime",
            "pbrun is not on PATH and no image is named",
            "set parabricks.image to an image of Clara Parabricks that is on this machine",
            "image",
        )
    program = {"native": "pbrun"}.get(runtime, runtime)
    if shutil.which(program) is None:
        return None, _refuse(
            "runtime",
            f"{program} is not on PATH",
            f"install {program} for the user who runs wesemu, or change parabricks.runtime",
        )
    if runtime != "native" and not options.image:
        return None, _refuse(
            "runtime",
            f"no image is named for {runtime}",
            "set parabricks.image to an image of Clara Parabricks that is on this machine",
            "image",
        )
    return runtime, PreflightCheck("runtime", "ok", runtime)


def check_image(runtime: RuntimeKind, image: str) -> PreflightCheck:
    """Check that the image is on this machine; nothing is fetched."""
    if runtime == "apptainer":
        if "://" in image or not Path(image).exists():
            return _refuse(
                "image", f"{image} is not a file on this machine", CURES["image"], "image"
            )
        return PreflightCheck("image", "ok", image)
    result = query(["docker", "image", "inspect", "--format", "{{.Id}}", image])
    if result.status == 0:
        return PreflightCheck("image", "ok", image)
    message = _last_line(result)
    if "no such image" in message.lower():
        return _refuse("image", f"docker has no image {image} here", CURES["image"], "image")
    return _refuse(
        "image",
        f"docker does not answer: {message}",
        "start the docker service, and add the user who runs wesemu to the group docker",
    )


Version = tuple[int, ...]
"""A version of Parabricks as (4, 5, 1)."""


def find_version(command: Sequence[str], image: str | None) -> Version | None:
    """Return the version of pbrun, or None.

    `command` runs `pbrun version`; without it or its answer, the tag of the image decides.
    """
    output = query(command).text if command else ""
    return _version(output, r"pbrun:\s*v?") or _version(image or "", r":v?")


def _version(text: str, before: str) -> Version | None:
    match = re.search(rf"{before}(\d+(?:\.\d+)+)[\w.-]*\s*$", text, re.MULTILINE)
    return tuple(map(int, match[1].split("."))) if match else None


def check_version(version: Version | None) -> PreflightCheck:
    """Describe the version of Parabricks, and the version of bwa whose results it reproduces."""
    if version is None:
        return PreflightCheck(
            "version", "unknown", "unknown; options of 4.5 and later are not used"
        )
    text = ".".join(map(str, version))
    bwa = next((bwa for since, bwa in _BWA if version >= since), None)
    return PreflightCheck("version", "ok", f"{text}, which maps like bwa {bwa}" if bwa else text)


def check_driver(version: Version | None, driver: str | None) -> PreflightCheck:
    """Compare the branch of the driver with what this version of Parabricks needs."""
    if version is None or driver is None or not (branch := re.match(r"\d+", driver)):
        missing = "the version of pbrun" if version is None else "the driver"
        return PreflightCheck(
            "driver", "unknown", f"{missing} is unknown, so the driver is not checked"
        )
    name = f"Parabricks {version[0]}.{version[1]}"
    for since, least in _DRIVERS:
        if version >= since:
            if int(branch[0]) >= least:
                return PreflightCheck("driver", "ok", f"{driver}; {name} needs {least} or later")
            return _refuse(
                "driver",
                f"the NVIDIA driver is {driver}, {name} needs R{least} or later",
                CURES["driver"],
                "driver",
            )
    return PreflightCheck("driver", "unknown", f"{driver}; the driver that {name} needs is unknown")


def check_gpus(gpus: Sequence[LeasedGpu], wanted: int, message: str = "") -> PreflightCheck:
    """Check the number of GPUs and their memory."""
    if len(gpus) < wanted:
        detail = f": {message}" if message else ""
        return _refuse(
            "gpu", f"{len(gpus)} of {wanted} GPUs can be seen{detail}", CURES["no_gpu"], "no_gpu"
        )
    small = [gpu for gpu in gpus if gpu.memory_mb is not None and gpu.memory_mb < LEAST_GPU_MB]
    if small:
        return _refuse(
            "gpu",
            f"GPU {small[0].index} has {small[0].memory_mb} MiB; Parabricks needs 16 GB",
            "use a larger card, or run on the CPU (node = cpu)",
            "gpu_memory",
        )
    return PreflightCheck("gpu", "ok", "; ".join(_describe(gpu) for gpu in gpus))


def _describe(gpu: LeasedGpu) -> str:
    memory = "memory unknown" if gpu.memory_mb is None else f"{gpu.memory_mb} MiB"
    return f"{gpu.index}: {gpu.name or 'GPU'}, {memory}"


def choose_low_memory(
    options: ParabricksOptions, gpus: Iterable[LeasedGpu]
) -> tuple[bool, PreflightCheck]:
    """Choose the low-memory flags by the settings, or by the smallest card."""
    if options.low_memory != "auto":
        chosen = options.low_memory == "always"
        return chosen, PreflightCheck("low memory", "chosen", f"{chosen}, by the settings")
    sizes = [gpu.memory_mb for gpu in gpus if gpu.memory_mb is not None]
    if not sizes:
        return False, PreflightCheck("low memory", "unknown", "off: the GPU's memory is unknown")
    chosen = min(sizes) < SLIM_GPU_MB
    text = f"{'on' if chosen else 'off'}: {min(sizes)} MiB, limit {SLIM_GPU_MB}"
    return chosen, PreflightCheck("low memory", "chosen", text)


def check_host_memory(options: ParabricksOptions, wanted: int) -> PreflightCheck:
    """Check the host memory; never refuse, because small samples need little."""
    if options.memory_limit is not None:
        return PreflightCheck("host memory", "chosen", f"limited to {options.memory_limit} GB")
    total = psutil.virtual_memory().total // _GIGA
    need = HOST_GB_A_GPU * wanted
    if total >= need:
        return PreflightCheck("host memory", "ok", f"{total} GB for {wanted} GPUs")
    return PreflightCheck(
        "host memory",
        "unknown",
        f"{total} GB; NVIDIA asks for about {need} GB for {wanted} GPUs: whole genomes may fail",
        CURES["host_memory"],
    )


def check_space(reads: Iterable[Path], temporary: Path) -> PreflightCheck:
    """Check the space for sorting these FASTQ files in the folder `temporary`."""
    size = sum(path.stat().st_size for path in reads)
    free = shutil.disk_usage(temporary).free
    text = f"{_size(free)} free in {temporary}, {_size(size)} of FASTQ"
    if free < _LEAST_TIMES_READS * size:
        return _refuse("temporary space", text, CURES["disk_full"], "disk_full")
    if free < _SPACE_TIMES_READS * size:
        return PreflightCheck(
            "temporary space", "unknown", f"{text}: that may be too little", CURES["disk_full"]
        )
    return PreflightCheck("temporary space", "ok", text)


def _size(count: int) -> str:
    return f"{count / _GIGA:.1f} GB" if count >= _GIGA // 10 else f"{count / 10**6:.1f} MB"


def parabricks_findings(
    options: ParabricksOptions, *, gpus: Sequence[LeasedGpu] | None = None, wanted: int = 1
) -> list[PreflightCheck]:
    """Run all checks of this machine, for `wesemu doctor`. Blocks for some seconds.

    `gpus` are the known ones; without them nvidia-smi is queried.
    """
    runtime, finding = choose_runtime(options)
    findings = [finding]
    if runtime is None:
        return findings
    if runtime != "native":
        findings.append(check_image(runtime, options.image or ""))
        if findings[-1].verdict == "refused":
            return findings
    result = query(probe(runtime, options.image, GPU_QUERY))
    seen = parse(result.text)
    known = list(seen if gpus is None else gpus)
    findings.append(
        check_gpus(seen or (known if runtime == "native" else []), wanted, _last_line(result))
    )
    version = find_version(probe(runtime, options.image, ["pbrun", "version"]), options.image)
    findings.append(check_version(version))
    findings.append(check_driver(version, next((gpu.driver for gpu in known or seen), None)))
    findings.append(choose_low_memory(options, known or seen)[1])
    findings.append(check_host_memory(options, wanted))
    return findings


def probe(
    runtime: RuntimeKind, image: str | None, argv: Sequence[str], devices: Sequence[str] = ()
) -> list[str]:
    """Return the command that runs `argv` where pbrun runs; without `devices`, with all GPUs."""
    match runtime:
        case "native":
            return list(argv)
        case "docker":
            gpus = f'"device={",".join(devices)}"' if devices else "all"
            start = ["docker", "run", "--rm", "--pull", "never", "--gpus", gpus]
            return [*start, "--user", f"{os.getuid()}:{os.getgid()}", image or "", *argv]
        case "apptainer":
            return ["apptainer", "exec", "--nv", "--cleanenv", "--no-home", image or "", *argv]


def _refuse(subject: str, text: str, cure: str, kind: Kind = "other") -> PreflightCheck:
    return PreflightCheck(subject, "refused", text, cure, kind)


def _last_line(result: ProgramOutput) -> str:
    lines = result.text.strip().splitlines()
    return lines[-1][:240] if lines else f"exit status {result.status}"


def parabricks_tool(config: Mapping[str, Any]) -> "Tool":
    """Return Parabricks as a tool, for headers and summaries.

    `config` is the object `parabricks` of the configuration. The version comes from a native pbrun
    or from the tag of the image; otherwise it is "unknown".
    """
    # imported here: steps import this module, and start faster without the tools
    from wesemu.genomics.tools import Tool

    options = options_from(config)
    runtime, _ = choose_runtime(options)
    native = runtime == "native"
    version = find_version(["pbrun", "version"] if native else [], options.image)
    return Tool(
        "parabricks",
        ("pbrun",),
        "unknown" if version is None else ".".join(map(str, version)),
        "path" if native else "settings",
    )
