"""The list of ALT contigs beside a FASTA: `X.alt`, or `X.64.alt` as bwa 0.6 and bwa.kit name it.

bwa and its successors read it when they map. Without it, reads of a region that has ALT contigs
map to several places, and their variants are lost.
"""

import hashlib
from pathlib import Path

from wesemu.errors import InputError
from wesemu.genomics.bwaindex import read_fai

SUFFIXES = (".alt", ".64.alt")


def find_alternates(fasta: Path) -> Path | None:
    """The list for `fasta`, plain or gzip, beside it or beside the file that it links to. An
    empty list counts as none."""
    for path in dict.fromkeys((fasta, fasta.resolve())):
        for stem in stems(str(path)):
            for suffix in SUFFIXES:
                found = Path(stem + suffix)
                if found.is_file() and found.stat().st_size:
                    return found
    return None


def stems(fasta: str) -> list[str]:
    """What the name of the list may begin with, for a FASTA's name."""
    return [fasta, fasta.removesuffix(".gz")] if fasta.endswith(".gz") else [fasta]


def key_with_alternates(sha256: str, alternates: Path | None) -> str:
    """The key of a reference in the cache: its sequences, and its ALT contigs if it has any."""
    if alternates is None:
        return sha256
    return hashlib.sha256(sha256.encode() + _normalised(alternates)).hexdigest()


def check_alternates(alternates: Path, indexed: Path, fasta: Path) -> None:
    """Raise `InputError` if no sequence of `fasta` is in the list; `indexed` has its .fai."""
    names = {name for name, _ in read_fai(str(indexed))}
    lines = _normalised(alternates).decode("utf-8", "surrogateescape").splitlines()
    listed = [line.split("\t", 1)[0] for line in lines if not line.startswith("@")]
    if names.isdisjoint(listed):
        raise InputError(
            f"{alternates.name} lists ALT contigs, and none of them is in {fasta}: it belongs to "
            "another reference. Remove it, or fetch the right one.",
            file=str(alternates),
        )


def write_alternates(alternates: Path, indexed: Path, fasta: Path) -> None:
    """Write the list beside `indexed`, where mappers find it. Raises `InputError`."""
    check_alternates(alternates, indexed, fasta)
    target = Path(f"{indexed}.alt")
    unfinished = target.with_name(f".{target.name}.part")
    unfinished.write_bytes(_normalised(alternates))
    unfinished.replace(target)


def _normalised(alternates: Path) -> bytes:
    """Its lines; bwa overlooks a last one without an end."""
    lines = [line for line in alternates.read_bytes().splitlines() if line.strip()]
    return b"\n".join(lines) + b"\n"
