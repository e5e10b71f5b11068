"""Facts about references that need reading whole files, remembered between runs.

A record is valid for the size, the times of modification and of change, and the inode of its files.
A file that is replaced or rewritten is read again, even if its modification time is set back.
Records can be deleted at any time. Further parts: the format of BAM and VCF indexes (BAI or CSI),
and lists of ALT contigs.
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
"""Resolution of file times. A younger file could change and keep its times: it gets no record."""

State = tuple[int, int, int, int]


def default_folder() -> Path:
    """Return the folder of the records for runs without a server."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "wesemu" / "references"


class ReferenceRecords:
    """Records in `folder`, which is created when needed.

    If the folder is not writable, files are read again each time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def facts(self, fasta: Path) -> FastaFacts:
        """Return the result of `examine`, from the record if there is one. Raises `InputError`."""
        before = _states([fasta])
        key = _key("facts", before)
        record = self._read(key)
        if record is not None:
            with contextlib.suppress(TypeError):
                return FastaFacts(**record)
        facts = examine(fasta)
        if self._is_unchanged(fasta, [fasta], before):
            self._write(key, before, asdict(facts))
        return facts

    def index_mismatch(self, fasta: Path, indexer: str) -> str | None:
        """Return the result of `index_mismatch`; a match is recorded, a mismatch is not."""
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
        """Record a FASTA and its index that the caller has just built, where no other program
        writes."""
        files = _files(fasta, indexer)
        self._save(_key("facts", _states([fasta])), asdict(replace(facts, regular=True)))
        self._save(_key(f"index of {indexer}", _states(files)), {"fasta": str(fasta)})

    def _is_unchanged(self, fasta: Path, files: Iterable[Path], before: list[State | None]) -> bool:
        """Return whether the files kept their states. Raises `InputError` if one was written or
        replaced.

        A new change time alone is not an error: another run may have made a hard link.
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
            record: object = json.loads((self._folder / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) else None

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
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _without_change_time(state: State | None) -> tuple[int, int, int] | None:
    return None if state is None else (state[0], state[1], state[3])


def _key(kind: str, states: list[State | None]) -> str:
    return hashlib.sha256(json.dumps([_VERSION, kind, states]).encode()).hexdigest()


# The index format of a BAM or VCF. BAI and TBI have positions up to 2^29 (SAM specification 5.2);
# CSI has no such limit. The choice depends on the longest contig alone.


IndexFormat = Literal["bai", "csi"]

LONGEST_IN_BAI = (1 << 29) - 1
"""The longest contig in bases."""

CALLERS_WITH_CSI = ("bcftools", "freebayes")
"""Callers that read a BAM with a CSI, and whose VCF the pipelines index."""

_MOST_IN_A_BYTE = 1032
"""Bytes that one byte of gzip data can expand to, at most."""


def may_need_csi(fasta: Path) -> bool:
    """Return whether a contig may be too long for BAI, by the file's size alone."""
    try:
        most = fasta.stat().st_size * (_MOST_IN_A_BYTE if is_gzip(fasta) else 1)
    except (OSError, InputError):  # reported when the file is needed
        return False
    return most > LONGEST_IN_BAI


def listed_index_format(fasta: Path) -> IndexFormat | None:
    """Return the format by the file's size or its .fai; None if neither decides. Quick."""
    if not may_need_csi(fasta):
        return "bai"
    if is_gzip(fasta) or index_fault(str(fasta)) is not None:
        return None
    return _format_for(max(int(length) for _, length in read_fai(str(fasta))))


def index_format(fasta: Path, records: Path) -> IndexFormat:
    """Return `csi` if a contig is too long for BAI. Reads the FASTA only if nothing else decides.

    Raises `InputError`.
    """
    listed = listed_index_format(fasta)
    return listed or _format_for(ReferenceRecords(records).facts(fasta).longest)


def _format_for(longest: int) -> IndexFormat:
    return "csi" if longest > LONGEST_IN_BAI else "bai"


# The list of ALT contigs beside a FASTA: `X.alt`, or `X.64.alt` from bwa 0.6 and bwa.kit.


ALTERNATE_SUFFIXES = (".alt", ".64.alt")


def find_alternates(fasta: Path) -> Path | None:
    """Return the list for `fasta` (plain or gzip), beside it or its link target; None without one.

    An empty list counts as none.
    """
    for path in dict.fromkeys((fasta, fasta.resolve())):
        for stem in stems(str(path)):
            for suffix in ALTERNATE_SUFFIXES:
                file = Path(stem + suffix)
                if file.is_file() and file.stat().st_size:
                    return file
    return None


def stems(fasta: str) -> list[str]:
    """Return the possible beginnings of the name of the list, for the name of a FASTA."""
    return [fasta, fasta.removesuffix(".gz")] if fasta.endswith(".gz") else [fasta]


def key_with_alternates(sha256: str, alternates: Path | None) -> str:
    """Return the key of a reference in the cache: of its sequences, and its ALT contigs if any."""
    if alternates is None:
        return sha256
    return hashlib.sha256(sha256.encode() + _normalised(alternates)).hexdigest()


def check_alternates(alternates: Path, indexed: Path, fasta: Path) -> None:
    """Raise `InputError` if no sequence of `fasta` is in the list. The .fai is beside `indexed`."""
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
    """Write the list beside `indexed`, where mappers look for it. Raises `InputError`."""
    check_alternates(alternates, indexed, fasta)
    target = Path(f"{indexed}.alt")
    unfinished = target.with_name(f".{target.name}.part")
    unfinished.write_bytes(_normalised(alternates))
    unfinished.replace(target)


def _normalised(alternates: Path) -> bytes:
    """Return the lines of the list with line ends: bwa ignores a last line without one."""
    lines = [line for line in alternates.read_bytes().splitlines() if line.strip()]
    return b"\n".join(lines) + b"\n"
