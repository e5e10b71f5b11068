"""What was found out about references by reading them whole, remembered between runs.

A record belongs to files as they are: size, times of modification and of change, and inode.
Whoever replaces or rewrites one of them has it read again, even if the time of modification is
set back. Records can be removed at any time.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from wesemu.errors import InputError
from wesemu.genomics.bwa_index import SUFFIXES_OF, index_fault, read_fai
from wesemu.genomics.fasta import FastaFacts, examine, is_gzip
from wesemu.genomics.index_check import index_mismatch

_VERSION = 1
_TICK_NS = 50_000_000
"""File times may be as coarse as this: a file that is younger can change and look the same."""

State = tuple[int, int, int, int]


def default_folder() -> Path:
    """Where records are kept for runs without a server."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "wesemu" / "references"


class ReferenceRecords:
    """Records below `folder`, which is made when it is needed. A folder that cannot be written
    costs time, nothing else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def facts(self, fasta: Path) -> FastaFacts:
        """`examine`, done once for a file as it is. Raises `InputError`."""
        before = _states([fasta])
        key = _key("facts", before)
        found = self._read(key)
        if found is not None:
            with contextlib.suppress(TypeError):
                return FastaFacts(**found)
        facts = examine(fasta)
        if self._is_unchanged(fasta, [fasta], before):
            self._write(key, before, asdict(facts))
        return facts

    def index_mismatch(self, fasta: Path, indexer: str) -> str | None:
        """`index_mismatch`, done once for the files as they are. A mismatch is not remembered."""
        files = _files(fasta, indexer)
        before = _states(files)
        key = _key(f"index of {indexer}", before)
        if None not in before and self._read(key) is not None:
            return None
        fault = index_mismatch(fasta, indexer)
        if fault is None and self._is_unchanged(fasta, files, before):
            self._write(key, before, {"fasta": str(fasta)})
        return fault

    def record_built(self, fasta: Path, facts: FastaFacts, indexer: str) -> None:
        """Remember a FASTA and an index that the caller has just made of it; nobody else writes
        there."""
        files = _files(fasta, indexer)
        self._save(_key("facts", _states([fasta])), asdict(replace(facts, regular=True)))
        self._save(_key(f"index of {indexer}", _states(files)), {"fasta": str(fasta)})

    def _is_unchanged(self, fasta: Path, files: Iterable[Path], before: list[State | None]) -> bool:
        """False if a file has a new time of change only: another run may have made a hard link.

        Raises `InputError` if a file was written or replaced.
        """
        now = _states(files)
        if [_without_change_time(each) for each in now] != [
            _without_change_time(each) for each in before
        ]:
            raise InputError(
                f"{fasta} was changed while it was read. Send the request again.", file=str(fasta)
            )
        return now == before

    def _read(self, key: str) -> dict[str, Any] | None:
        try:
            found: object = json.loads((self._folder / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _write(self, key: str, states: list[State | None], record: object) -> None:
        youngest = max((max(state[1:3]) for state in states if state is not None), default=0)
        if time.time_ns() - youngest >= _TICK_NS:
            self._save(key, record)

    def _save(self, key: str, record: object) -> None:
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._folder, delete=False) as file:
                json.dump(record, file)
            Path(file.name).replace(self._folder / f"{key}.json")


def _files(fasta: Path, indexer: str) -> list[Path]:
    return [Path(f"{fasta}{suffix}") for suffix in ("", ".fai", *SUFFIXES_OF[indexer])]


def _states(files: Iterable[Path]) -> list[State | None]:
    return [_state(file) for file in files]


def _state(file: Path) -> State | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _without_change_time(state: State | None) -> tuple[int, int, int] | None:
    return None if state is None else (state[0], state[1], state[3])


def _key(kind: str, states: list[State | None]) -> str:
    return hashlib.sha256(json.dumps([_VERSION, kind, states]).encode()).hexdigest()


# Which index a BAM or VCF gets. BAI and TBI number positions up to 2^29 (SAM specification 5.2);
# CSI has no such limit. The choice depends on the longest contig alone.


IndexFormat = Literal["bai", "csi"]

LONGEST_IN_BAI = (1 << 29) - 1
"""Bases of a contig."""

CALLERS_WITH_CSI = ("bcftools", "freebayes")
"""Those that read such a BAM and whose VCF is indexed here."""

_MOST_IN_A_BYTE = 1032
"""Bytes that one byte of gzip data can stand for, at most."""


def may_need_csi(fasta: Path) -> bool:
    """Whether a contig may be too long for BAI, by the file's size alone."""
    try:
        most = fasta.stat().st_size * (_MOST_IN_A_BYTE if is_gzip(fasta) else 1)
    except (OSError, InputError):  # told when the file is needed
        return False
    return most > LONGEST_IN_BAI


def listed_index_format(fasta: Path) -> IndexFormat | None:
    """What the file's size or the .fai beside it tells; None if neither does. Quick."""
    if not may_need_csi(fasta):
        return "bai"
    if is_gzip(fasta) or index_fault(str(fasta)) is not None:
        return None
    return _format_for(max(int(length) for _, length in read_fai(str(fasta))))


def index_format(fasta: Path, records: Path) -> IndexFormat:
    """`csi` if a contig is too long for BAI. Where nothing else tells, the FASTA is read, once.

    Raises `InputError`.
    """
    listed = listed_index_format(fasta)
    return listed or _format_for(ReferenceRecords(records).facts(fasta).longest)


def _format_for(longest: int) -> IndexFormat:
    return "csi" if longest > LONGEST_IN_BAI else "bai"


# The list of ALT contigs beside a FASTA: `X.alt`, or `X.64.alt` as bwa 0.6 and bwa.kit name it.


ALTERNATE_SUFFIXES = (".alt", ".64.alt")


def find_alternates(fasta: Path) -> Path | None:
    """The list for `fasta`, plain or gzip, beside it or beside the file that it links to. An
    empty list counts as none."""
    for path in dict.fromkeys((fasta, fasta.resolve())):
        for stem in stems(str(path)):
            for suffix in ALTERNATE_SUFFIXES:
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
