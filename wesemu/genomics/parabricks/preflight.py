"""What must be right before `pbrun` starts: findings, each with its cure."""

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

# The GPUs that a step has, and what `nvidia-smi` says of them.


NOT_FOUND = 127
"""The status of a program that is not there."""

_PATIENCE_SECONDS = 30
_QUESTION = (
    "nvidia-smi",
    "--query-gpu=index,memory.total,driver_version,name",
    "--format=csv,noheader,nounits",
)


@dataclass(frozen=True, slots=True)
class LeasedGpu:
    """`memory_mb` in MiB, `driver` as in "535.104.05"."""

    index: str
    memory_mb: int | None
    driver: str | None
    name: str = ""


@dataclass(frozen=True, slots=True)
class ProgramOutput:
    """How a short question to a program ended; status 127 where it is not there."""

    status: int
    words: str


def leased(environment: Mapping[str, str], wanted: int) -> tuple[str, ...]:
    """The devices of a lease (or of Slurm), at most `wanted`; without one the first ones."""
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return tuple(str(number) for number in range(wanted))
    return tuple(part.strip() for part in given.split(",") if part.strip())[:wanted]


def ask(words: Sequence[str], added: Mapping[str, str] | None = None) -> ProgramOutput:
    """Run a program that answers within half a minute."""
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(added or {})},
            timeout=_PATIENCE_SECONDS,
            text=True,
            errors="replace",
            check=False,
        )
    except subprocess.TimeoutExpired:
        return ProgramOutput(124, f"{words[0]} did not answer for {_PATIENCE_SECONDS} s")
    except OSError as error:
        return ProgramOutput(NOT_FOUND, str(error))
    return ProgramOutput(done.returncode, done.stdout)


def question() -> list[str]:
    """What to ask, on the machine or in a container."""
    return list(_QUESTION)


def parse(text: str) -> list[LeasedGpu]:
    """The GPUs in an answer of nvidia-smi; lines that are none are passed over."""
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",", 3)]
        if len(fields) == 4 and fields[0].isdigit():
            memory = int(fields[1]) if fields[1].isdigit() else None
            found.append(LeasedGpu(fields[0], memory, fields[2] or None, fields[3]))
    return found


# What the settings say of Parabricks, as the pipelines' configuration carries it.


Runtime = Literal["auto", "native", "docker", "apptainer", "none"]
LowMemory = Literal["auto", "always", "never"]


@dataclass(frozen=True, slots=True)
class ParabricksOptions:
    """`image` is docker's name of an image that is there already, or the path of a .sif file.

    `low_memory`: `auto` goes by the GPU's memory. `temporary` is a folder on a fast local disk
    (None: the run's own). `memory_limit` is `--memory-limit` in GB of host memory.
    """

    runtime: Runtime = "auto"
    image: str | None = None
    low_memory: LowMemory = "auto"
    retry_low_memory: bool = True
    temporary: str | None = None
    memory_limit: int | None = None


def options_from(config: Mapping[str, Any]) -> ParabricksOptions:
    """The configuration's object `parabricks`, which the workflow's schema has checked."""
    return ParabricksOptions(
        runtime=cast(Runtime, config.get("runtime") or "auto"),
        image=config.get("image") or None,
        low_memory=cast(LowMemory, config.get("low_memory") or "auto"),
        retry_low_memory=bool(config.get("retry_low_memory", True)),
        temporary=config.get("temporary") or None,
        memory_limit=config.get("memory_limit") or None,
    )


Verdict = Literal["ok", "chosen", "unknown", "refused"]

LEAST_GPU_MB = 15_000
"""Parabricks wants 16 GB; such cards report from 15,109 MiB on."""

SLIM_GPU_MB = 22_000
"""Below it the low-memory flags are given: cards of 24 GB report from 22,731 MiB on."""

HOST_GB_A_GPU = 50
_SPACE_TIMES_READS = 3
_LEAST_TIMES_READS = 2
_DRIVERS = (((4, 8), 580), ((4, 6), 535))
_GIGA = 10**9


@dataclass(frozen=True, slots=True)
class PreflightCheck:
    """One thing that was looked at. `refused`: pbrun must not start; `cure` says what to do."""

    subject: str
    verdict: Verdict
    text: str
    cure: str = ""
    kind: Kind = "other"


def choose_place(options: ParabricksOptions) -> tuple[RuntimeKind | None, PreflightCheck]:
    """Where pbrun is to run: on PATH, else in the image that the settings name."""
    place: RuntimeKind | None = None
    if options.runtime == "none":
        return None, _refuse(
            "runtime",
            "the setting parabricks.runtime is none",
            "set parabricks.runtime to auto where Parabricks is to be used",
        )
    if options.runtime != "auto":
        place = options.runtime
    elif shutil.which("pbrun"):
        place = "native"
    elif options.image:
        is_file = options.image.endswith(".sif") or Path(options.image).exists()
        place = "apptainer" if is_file else "docker"
    if place is None:
        return None, _refuse(
            "runtime",
            "pbrun is not on PATH and no image is named",
            "set parabricks.image to an image of Clara Parabricks that is on this machine",
            "image",
        )
    program = {"native": "pbrun"}.get(place, place)
    if shutil.which(program) is None:
        return None, _refuse(
            "runtime",
            f"{program} is not on PATH",
            f"install {program} for the user who runs wesemu, or change parabricks.runtime",
        )
    if place != "native" and not options.image:
        return None, _refuse(
            "runtime",
            f"no image is named for {place}",
            "set parabricks.image to an image of Clara Parabricks that is on this machine",
            "image",
        )
    return place, PreflightCheck("runtime", "ok", place)


def check_image(place: RuntimeKind, image: str) -> PreflightCheck:
    """Whether the image is on this machine; nothing is ever fetched."""
    if place == "apptainer":
        if "://" in image or not Path(image).exists():
            return _refuse("image", f"{image} is no file on this machine", CURES["image"], "image")
        return PreflightCheck("image", "ok", image)
    answer = ask(["docker", "image", "inspect", "--format", "{{.Id}}", image])
    if answer.status == 0:
        return PreflightCheck("image", "ok", image)
    words = _last(answer)
    if "no such image" in words.lower():
        return _refuse("image", f"docker has no image {image} here", CURES["image"], "image")
    return _refuse(
        "image",
        f"docker does not answer: {words}",
        "start the docker service, and let the user who runs wesemu use it (group docker)",
    )


def find_version(words: Sequence[str], image: str | None) -> tuple[int, int] | None:
    """pbrun's version by `words`, the command `pbrun version` where it is to run (none: nobody is
    asked); else by the image's tag."""
    told = ask(words).words if words else ""
    return _version(told, r"pbrun:\s*v?") or _version(image or "", r":v?")


def _version(text: str, before: str) -> tuple[int, int] | None:
    found = re.search(rf"{before}(\d+)\.(\d+)[\w.-]*\s*$", text, re.MULTILINE)
    return (int(found[1]), int(found[2])) if found else None


def check_driver(version: tuple[int, int] | None, driver: str | None) -> PreflightCheck:
    """The driver's branch against what this version of Parabricks needs."""
    if version is None or driver is None or not (branch := re.match(r"\d+", driver)):
        missing = "the version of pbrun" if version is None else "the driver"
        return PreflightCheck("driver", "unknown", f"{missing} is not known; it is not checked")
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
    return PreflightCheck("driver", "unknown", f"{driver}; what {name} needs is not known here")


def check_gpus(gpus: Sequence[LeasedGpu], wanted: int, words: str = "") -> PreflightCheck:
    """Whether there are GPUs at all, with memory enough."""
    if len(gpus) < wanted:
        said = f": {words}" if words else ""
        return _refuse(
            "gpu", f"{len(gpus)} of {wanted} GPUs can be seen{said}", CURES["no_gpu"], "no_gpu"
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
    """The low-memory flags: as the settings say, else by the smallest card."""
    if options.low_memory != "auto":
        chosen = options.low_memory == "always"
        return chosen, PreflightCheck("low memory", "chosen", f"{chosen}, by the settings")
    sizes = [gpu.memory_mb for gpu in gpus if gpu.memory_mb is not None]
    if not sizes:
        return False, PreflightCheck("low memory", "unknown", "off: the GPU's memory is not known")
    chosen = min(sizes) < SLIM_GPU_MB
    text = f"{'on' if chosen else 'off'}: {min(sizes)} MiB, limit {SLIM_GPU_MB}"
    return chosen, PreflightCheck("low memory", "chosen", text)


def check_host_memory(options: ParabricksOptions, wanted: int) -> PreflightCheck:
    """Little host memory is no refusal: small samples need little."""
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
    """Room for the sort of these FASTQ files, in the folder for temporary files."""
    size = sum(path.stat().st_size for path in reads)
    free = shutil.disk_usage(temporary).free
    told = f"{_size(free)} free in {temporary}, {_size(size)} of FASTQ"
    if free < _LEAST_TIMES_READS * size:
        return _refuse("temporary space", told, CURES["disk_full"], "disk_full")
    if free < _SPACE_TIMES_READS * size:
        return PreflightCheck(
            "temporary space", "unknown", f"{told}: it may not do", CURES["disk_full"]
        )
    return PreflightCheck("temporary space", "ok", told)


def _size(count: int) -> str:
    return f"{count / _GIGA:.1f} GB" if count >= _GIGA // 10 else f"{count / 10**6:.1f} MB"


def parabricks_findings(
    options: ParabricksOptions, *, gpus: Sequence[LeasedGpu] | None = None, wanted: int = 1
) -> list[PreflightCheck]:
    """Everything about this machine that a step would look at, for `wesemu doctor`. Blocks, up to
    some seconds. `gpus` are those already known; else nvidia-smi is asked."""
    place, found = choose_place(options)
    findings = [found]
    if place is None:
        return findings
    if place != "native":
        findings.append(check_image(place, options.image or ""))
        if findings[-1].verdict == "refused":
            return findings
    answer = ask(probe(place, options.image, question()))
    seen = parse(answer.words)
    known = list(seen if gpus is None else gpus)
    findings.append(check_gpus(seen or (known if place == "native" else []), wanted, _last(answer)))
    version = find_version(probe(place, options.image, ["pbrun", "version"]), options.image)
    told = "not told" if version is None else f"{version[0]}.{version[1]}"
    findings.append(PreflightCheck("version", "unknown" if version is None else "ok", told))
    findings.append(check_driver(version, next((gpu.driver for gpu in known or seen), None)))
    findings.append(choose_low_memory(options, known or seen)[1])
    findings.append(check_host_memory(options, wanted))
    return findings


def probe(
    place: RuntimeKind, image: str | None, words: Sequence[str], devices: Sequence[str] = ()
) -> list[str]:
    """The command that asks a program where pbrun is to run; without `devices`, with all GPUs."""
    match place:
        case "native":
            return list(words)
        case "docker":
            gpus = f'"device={",".join(devices)}"' if devices else "all"
            start = ["docker", "run", "--rm", "--pull", "never", "--gpus", gpus]
            return [*start, "--user", f"{os.getuid()}:{os.getgid()}", image or "", *words]
        case "apptainer":
            return ["apptainer", "exec", "--nv", "--cleanenv", "--no-home", image or "", *words]


def _refuse(subject: str, text: str, cure: str, kind: Kind = "other") -> PreflightCheck:
    return PreflightCheck(subject, "refused", text, cure, kind)


def _last(answer: ProgramOutput) -> str:
    lines = answer.words.strip().splitlines()
    return lines[-1][:240] if lines else f"exit status {answer.status}"


# What a workflow wants to know of Parabricks before anything runs.


def parabricks_tool(config: Mapping[str, Any]) -> "Tool":
    """`config` is the configuration's object `parabricks`. The version of a native pbrun is asked
    for, that of an image is what its tag says; "unknown" where neither tells it."""
    from wesemu.genomics.tools import Tool

    options = options_from(config)
    place, _ = choose_place(options)
    native = place == "native"
    version = find_version(["pbrun", "version"] if native else [], options.image)
    return Tool(
        "parabricks",
        ("pbrun",),
        "unknown" if version is None else ".".join(map(str, version)),
        "path" if native else "settings",
    )
