"""What must be right before `pbrun` starts: findings, each with its cure."""

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from wesemu.genomics.parabricks.failures import CURES, Kind
from wesemu.genomics.parabricks.gpus import Answer, Gpu, ask, parse, question
from wesemu.genomics.parabricks.options import Options
from wesemu.genomics.parabricks.runtimes import Place

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
class Finding:
    """One thing that was looked at. `refused`: pbrun must not start; `cure` says what to do."""

    subject: str
    verdict: Verdict
    text: str
    cure: str = ""
    kind: Kind = "other"


def choose_place(options: Options) -> tuple[Place | None, Finding]:
    """Where pbrun is to run: on PATH, else in the image that the settings name."""
    place: Place | None = None
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
    return place, Finding("runtime", "ok", place)


def check_image(place: Place, image: str) -> Finding:
    """Whether the image is on this machine; nothing is ever fetched."""
    if place == "apptainer":
        if "://" in image or not Path(image).exists():
            return _refuse("image", f"{image} is no file on this machine", CURES["image"], "image")
        return Finding("image", "ok", image)
    answer = ask(["docker", "image", "inspect", "--format", "{{.Id}}", image])
    if answer.status == 0:
        return Finding("image", "ok", image)
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


def check_driver(version: tuple[int, int] | None, driver: str | None) -> Finding:
    """The driver's branch against what this version of Parabricks needs."""
    if version is None or driver is None or not (branch := re.match(r"\d+", driver)):
        missing = "the version of pbrun" if version is None else "the driver"
        return Finding("driver", "unknown", f"{missing} is not known; it is not checked")
    name = f"Parabricks {version[0]}.{version[1]}"
    for since, least in _DRIVERS:
        if version >= since:
            if int(branch[0]) >= least:
                return Finding("driver", "ok", f"{driver}; {name} needs {least} or later")
            return _refuse(
                "driver",
                f"the NVIDIA driver is {driver}, {name} needs R{least} or later",
                CURES["driver"],
                "driver",
            )
    return Finding("driver", "unknown", f"{driver}; what {name} needs is not known here")


def check_gpus(gpus: Sequence[Gpu], wanted: int, words: str = "") -> Finding:
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
    return Finding("gpu", "ok", "; ".join(_describe(gpu) for gpu in gpus))


def _describe(gpu: Gpu) -> str:
    memory = "memory unknown" if gpu.memory_mb is None else f"{gpu.memory_mb} MiB"
    return f"{gpu.index}: {gpu.name or 'GPU'}, {memory}"


def choose_low_memory(options: Options, gpus: Iterable[Gpu]) -> tuple[bool, Finding]:
    """The low-memory flags: as the settings say, else by the smallest card."""
    if options.low_memory != "auto":
        chosen = options.low_memory == "always"
        return chosen, Finding("low memory", "chosen", f"{chosen}, by the settings")
    sizes = [gpu.memory_mb for gpu in gpus if gpu.memory_mb is not None]
    if not sizes:
        return False, Finding("low memory", "unknown", "off: the GPU's memory is not known")
    chosen = min(sizes) < SLIM_GPU_MB
    text = f"{'on' if chosen else 'off'}: {min(sizes)} MiB, limit {SLIM_GPU_MB}"
    return chosen, Finding("low memory", "chosen", text)


def check_host_memory(options: Options, wanted: int) -> Finding:
    """Little host memory is no refusal: small samples need little."""
    if options.memory_limit is not None:
        return Finding("host memory", "chosen", f"limited to {options.memory_limit} GB")
    total = psutil.virtual_memory().total // _GIGA
    need = HOST_GB_A_GPU * wanted
    if total >= need:
        return Finding("host memory", "ok", f"{total} GB for {wanted} GPUs")
    return Finding(
        "host memory",
        "unknown",
        f"{total} GB; NVIDIA asks for about {need} GB for {wanted} GPUs: whole genomes may fail",
        CURES["host_memory"],
    )


def check_space(reads: Iterable[Path], temporary: Path) -> Finding:
    """Room for the sort of these FASTQ files, in the folder for temporary files."""
    size = sum(path.stat().st_size for path in reads)
    free = shutil.disk_usage(temporary).free
    told = f"{_size(free)} free in {temporary}, {_size(size)} of FASTQ"
    if free < _LEAST_TIMES_READS * size:
        return _refuse("temporary space", told, CURES["disk_full"], "disk_full")
    if free < _SPACE_TIMES_READS * size:
        return Finding("temporary space", "unknown", f"{told}: it may not do", CURES["disk_full"])
    return Finding("temporary space", "ok", told)


def _size(count: int) -> str:
    return f"{count / _GIGA:.1f} GB" if count >= _GIGA // 10 else f"{count / 10**6:.1f} MB"


def parabricks_findings(
    options: Options, *, gpus: Sequence[Gpu] | None = None, wanted: int = 1
) -> list[Finding]:
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
    findings.append(Finding("version", "unknown" if version is None else "ok", told))
    findings.append(check_driver(version, next((gpu.driver for gpu in known or seen), None)))
    findings.append(choose_low_memory(options, known or seen)[1])
    findings.append(check_host_memory(options, wanted))
    return findings


def probe(
    place: Place, image: str | None, words: Sequence[str], devices: Sequence[str] = ()
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


def _refuse(subject: str, text: str, cure: str, kind: Kind = "other") -> Finding:
    return Finding(subject, "refused", text, cure, kind)


def _last(answer: Answer) -> str:
    lines = answer.words.strip().splitlines()
    return lines[-1][:240] if lines else f"exit status {answer.status}"
