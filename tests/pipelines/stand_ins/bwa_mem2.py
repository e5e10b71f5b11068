"""Stands in for bwa-mem2; maps with bwa."""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from wesemu.genomics.bwa_index import read_contigs
from wesemu.genomics.fm_index import write_index

BWA = shutil.which("bwa") or ""
WHEEL = [sys.executable, "-P", "-m", "wesemu.genomics.wheel_tools", "bwa"]
OWN = (".0123", ".bwt.2bit.64")


def index(fasta: Path) -> int:
    """The files of bwa-mem2, the transform as it is written for bwa-mem3."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copyfile(fasta, copy)
        subprocess.run([*WHEEL, "index", str(copy)], check=True, stderr=subprocess.DEVNULL)
        write_index(str(copy))
        for suffix in (".amb", ".ann", ".pac", ".bwt.2bit.64"):
            shutil.copyfile(f"{copy}{suffix}", f"{fasta}{suffix}")
    bases = sum(contig.length for contig in read_contigs(str(fasta)))
    packed = Path(f"{fasta}.pac").read_bytes()
    codes = bytes(byte >> shift & 3 for byte in packed for shift in (6, 4, 2, 0))[:bases]
    Path(f"{fasta}.0123").write_bytes(codes + bytes(3 - code for code in reversed(codes)))
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
