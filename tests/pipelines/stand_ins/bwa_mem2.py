"""Stands in for bwa-mem2; maps with bwa."""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BWA = shutil.which("bwa") or ""
WHEEL = [sys.executable, "-P", "-m", "wesemu.genomics.wheel", "bwa"]
OWN = (".0123", ".bwt.2bit.64")


def index(fasta: Path) -> int:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copyfile(fasta, copy)
        subprocess.run([*WHEEL, "index", str(copy)], check=True, stderr=subprocess.DEVNULL)
        for suffix in (".amb", ".ann", ".pac"):
            shutil.copyfile(f"{copy}{suffix}", f"{fasta}{suffix}")
    bases = sum(
        len(line.strip()) for line in fasta.read_text().splitlines() if not line.startswith(">")
    )
    for suffix in OWN:
        Path(f"{fasta}{suffix}").write_bytes(bytes(2 * bases))
    return 0


def mem(words: list[str]) -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-K", choices=["10000000"], required=True)
    parser.add_argument("-Y", action="store_true", required=True)
    parser.add_argument("-p", action="store_true")
    parser.add_argument("-t", type=int, required=True)
    parser.add_argument("-R", required=True)
    parser.add_argument("reference")
    parser.add_argument("reads", nargs="+")
    given = parser.parse_args(words)
    if len(given.reads) != (1 if given.p else 2):
        parser.error(f"{len(given.reads)} files of reads")
    missing = [suffix for suffix in OWN if not Path(given.reference + suffix).is_file()]
    if missing:
        sys.exit(f"no index {missing}")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copyfile(given.reference, copy)
        subprocess.run([BWA, "index", str(copy)], check=True, stderr=subprocess.DEVNULL)
        options = words[: words.index(given.reference)]
        command = [BWA, "mem", *options, str(copy), *given.reads]
        return subprocess.run(command, check=False, close_fds=False).returncode


def main(words: list[str]) -> int:
    match words:
        case ["version"]:
            print("Looking to launch executable", file=sys.stderr)
            print("2.2.1")
            return 0
        case ["index", fasta]:
            return index(Path(fasta))
        case ["mem", *rest]:
            return mem(rest)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
