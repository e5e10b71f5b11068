"""Shared parts of the stand-ins for callers: bcftools, and checks of their arguments."""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

BCFTOOLS = shlex.join([sys.executable, "-P", "-m", "wesemu.genomics.wheel_tools", "bcftools"])


def strict(**required: dict[str, object]) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(allow_abbrev=False, **required)  # type: ignore[arg-type]


def indexed(suffix: str) -> "type[Path]":
    """A type of argument: a file that has another beside it."""

    def check(text: str) -> Path:
        if not Path(text).is_file() or not Path(text + suffix).is_file():
            raise argparse.ArgumentTypeError(f"no {text}, or no {text}{suffix}")
        return Path(text)

    return check  # type: ignore[return-value]


def existing(text: str) -> Path:
    if not Path(text).exists():
        raise argparse.ArgumentTypeError(f"no {text}")
    return Path(text)


def new_vcf(text: str) -> Path:
    if not text.endswith(".vcf.gz") or Path(text).exists() or not Path(text).parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a new .vcf.gz")
    return Path(text)


def call(reference: Path, bam: Path, regions: Path | None, options: str, vcf: Path) -> None:
    within = f"-R {regions}" if regions else ""
    pipe(
        f"{BCFTOOLS} mpileup -Ou -X illumina -F 0.1 -a AD,DP -d 100000 -L 1000000"
        f" -f {reference} {bam} {within} |"
        f" {BCFTOOLS} call -a GQ -m {options} -Oz -W=tbi -o {vcf} -"
    )


def pipe(script: str) -> None:
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], check=False)
    if done.returncode:
        sys.exit(done.returncode)
