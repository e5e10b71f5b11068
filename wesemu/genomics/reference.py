"""Store of reference genomes: registered by name, or prepared from a user's FASTA, indexed once.

A reference is built under a lock in a temporary folder, and renamed when it is complete. An index
is used if it was compared with its FASTA (`index_mismatch`); otherwise it is built again.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from wesemu.engines.processes import offer_to_oom_killer
from wesemu.errors import Conflict, InputError, InvalidRequest, ReferenceNotFound, SystemFault
from wesemu.genomics.bwa_index import (
    SHARED_SUFFIXES,
    SUFFIXES,
    SUFFIXES_OF,
    index_fault,
    indexing_memory_mb,
    read_contigs,
    read_fai,
)
from wesemu.genomics.fasta import FastaFacts, copy, is_fasta_name
from wesemu.genomics.prepare_reference import indexed_in_place
from wesemu.genomics.reference_records import (
    ReferenceRecords,
    find_alternates,
    key_with_alternates,
    write_alternates,
)
from wesemu.genomics.tools import Toolset, indexer_name, resolve
from wesemu.runs.model import Resources
from wesemu.util.text import failure_reason

FASTA = "genome.fa"
_STAMP = "genome.json"
_BUILD = ".build-"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_ALIASES = (("hg19", "hs37d5"),)

Lease = Callable[[Resources, Callable[[], bool]], AbstractContextManager[Sequence[int]]]
"""Leases resources for one program; waits while the second argument returns true. The context
gives file descriptors that the program inherits. Raises SystemFault."""


def lease_freely(
    wanted: Resources, needed: Callable[[], bool]
) -> AbstractContextManager[Sequence[int]]:
    """Return an empty lease at once, for programs outside the server."""
    return nullcontext(())


@dataclass(frozen=True, slots=True)
class ReferenceSummary:
    """A registered reference. `sequences` is None before indexing; `alternates` counts those in the
    .alt file, which mappers treat as ALT contigs."""

    name: str
    fasta: Path
    sequences: int | None
    alternates: int
    indexes: tuple[str, ...]


class ReferenceStore:
    """Registered references in `root/<name>/genome.fa`, and prepared ones in the cache.

    `cache/references/<sha256>/genome.fa` holds references prepared from other FASTA files;
    `cache/references/records` holds results of reading files (`ReferenceRecords`).

    The methods block, for an hour with a human genome. `close`, called from another thread, kills
    their child processes, and they raise `SystemFault`. Tools are resolved when first needed.
    """

    def __init__(
        self,
        root: Path,
        cache: Path,
        *,
        tools: Callable[..., Toolset] = resolve,
        lease: Lease = lease_freely,
    ) -> None:
        self._root = root
        self._cached = cache / "references"
        self._records = ReferenceRecords(self.records_folder)
        self._tools = tools
        self._lease = lease
        self._children: set[subprocess.Popen[str]] = set()
        self._closed = threading.Event()

    @property
    def records_folder(self) -> Path:
        """The folder of `ReferenceRecords` for this store."""
        return self._cached / "records"

    def names(self) -> list[str]:
        """Return registered names, sorted, with folders that a user put there by hand."""
        if not self._root.is_dir():
            return []
        return sorted(
            folder.name
            for folder in self._root.iterdir()
            if _NAME.fullmatch(folder.name) and _only_fasta(folder)
        )

    def find(self, name: str) -> Path | None:
        """Return the FASTA of a registered reference. Ignores case, and knows aliases."""
        wanted = name.lower()
        for candidate in (wanted, *(target for alias, target in _ALIASES if alias == wanted)):
            if _NAME.fullmatch(candidate) and (fasta := _only_fasta(self._root / candidate)):
                return fasta
        return None

    def check_name(self, name: str) -> str:
        """Return the name in lower case. Raises `InvalidRequest` if it cannot name a reference."""
        name = name.lower()
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                f"{name!r} cannot name a reference: up to 64 of a-z, 0-9, '.', '_' and '-', "
                "the first a letter or digit.",
                field="name",
            )
        return name

    def add(self, name: str, fasta: Path, mapper: str = "bwa") -> Path:
        """Register an indexed copy of `fasta` (plain or gzip) as `name`, and return its path.

        A reference that is registered with the same sequences gets the index for `mapper` if that
        is missing. Raises `InvalidRequest` for the name, `InputError` for the FASTA, `Conflict` if
        the name has other sequences, `SystemFault` if a tool fails, `ToolMissing`.
        """
        name = self.check_name(name)
        facts = self._records.facts(fasta)
        target = self._root / name / FASTA
        with _locked(self._root / f".{name}.lock"):
            present = _only_fasta(target.parent)
            if present is not None and self._records.facts(present).sha256 != facts.sha256:
                raise Conflict(
                    f"The reference {name} exists already with other sequences; remove it "
                    "first or choose another name."
                )
            self._provide(fasta, target, facts, indexer_name(mapper, self._tools))
            self._add_alternates(fasta, target, name)
        return target

    def remove(self, name: str) -> None:
        """Remove a registered reference. Raises `InvalidRequest`, `ReferenceNotFound`."""
        name = self.check_name(name)
        with _locked(self._root / f".{name}.lock"):
            folder = self._root / name
            if _only_fasta(folder) is None:
                raise ReferenceNotFound(f"there is no reference {name}", field="name")
            if folder.is_symlink():
                folder.unlink()
            else:
                shutil.rmtree(folder)

    def ready(self, fasta: Path, mapper: str = "bwa") -> Path:
        """Return an indexed FASTA with the sequences of `fasta`, for `mapper` and for faidx.

        That is `fasta` itself, or its link target, if its own index lies beside it; otherwise the
        cached reference, which is built now if necessary. Raises `InputError`, `SystemFault`,
        `ToolMissing`.
        """
        indexer = indexer_name(mapper, self._tools)
        if (indexed := indexed_in_place(fasta, indexer, self._records, _log)) is not None:
            return indexed
        facts = self._records.facts(fasta)
        key = key_with_alternates(facts.sha256, find_alternates(fasta))
        target = self._cached / key / FASTA
        with _locked(self._cached / f".{key}.lock"):
            self._provide(fasta, target, facts, indexer)
            self._add_alternates(fasta, target, str(fasta))
        return target

    def describe(self, name: str) -> ReferenceSummary:
        """Describe `name`, one of `names()`. Quick: reads no sequences."""
        fasta = self.find(name)
        assert fasta is not None
        try:
            sequences: int | None = len(read_fai(str(fasta)))
        except (OSError, ValueError):
            sequences = None
        indexes = [name for name in SUFFIXES_OF if index_fault(str(fasta), name) is None]
        alternates = 0
        if indexes:
            alternates = sum(contig.alternate for contig in read_contigs(str(fasta)))
        return ReferenceSummary(name, fasta, sequences, alternates, tuple(indexes))

    def clean_up(self) -> None:
        """Remove builds that a crash interrupted, but not those of processes that still run."""
        for folder in (self._root, self._cached):
            for build in folder.glob(f"{_BUILD}*"):
                with suppress(OSError), _locked_folder(build, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    shutil.rmtree(build)

    def close(self) -> None:
        """Kill running indexers. Idempotent; later builds raise `SystemFault`."""
        self._closed.set()
        for child in list(self._children):
            child.kill()

    def _provide(self, source: Path, target: Path, facts: FastaFacts, indexer: str) -> None:
        """Make sure that `target` has the sequences of `source` and the index of `indexer`."""
        if self._is_whole(target, facts, indexer):
            return
        if any(self._is_whole(target, facts, other) for other in SUFFIXES_OF):
            self._extend(target, str(source), facts, indexer)
            return
        self._build(source, target.parent, facts, indexer)

    def _is_whole(self, fasta: Path, facts: FastaFacts, indexer: str) -> bool:
        if index_fault(str(fasta), indexer) is not None:
            return False
        try:
            present = self._records.facts(fasta)
        except InputError:  # damaged since it was made
            return False
        return (
            present.sha256 == facts.sha256 and self._records.index_mismatch(fasta, indexer) is None
        )

    def _add_alternates(self, source: Path, target: Path, name: str) -> None:
        """Add the .alt file to a reference that was registered without it."""
        alternates, present = find_alternates(source), find_alternates(target)
        if alternates is None:
            return
        if present is None:
            write_alternates(alternates, target, source)
        elif key_with_alternates("", present) != key_with_alternates("", alternates):
            raise Conflict(
                f"The reference {name} exists already with another list of ALT contigs; remove it "
                "first or choose another name."
            )

    def _extend(self, fasta: Path, source: str, facts: FastaFacts, indexer: str) -> None:
        """Build another program's index, and move the complete index beside `fasta`.

        Files that both indexes share are not replaced, because runs may be reading them.
        """
        with _build_folder(fasta.parent.parent) as temporary:
            copy = temporary / FASTA
            copy.symlink_to(fasta.resolve())
            if indexer == "bwa-mem3" and index_fault(str(fasta)) is None:
                # bwa-mem3's index is made from bwa's files, and does not change them
                for suffix in SUFFIXES:
                    Path(f"{copy}{suffix}").symlink_to(f"{fasta.resolve()}{suffix}")
            self._index(copy, source, indexer)
            _sync_all(temporary)
            for suffix in SUFFIXES_OF[indexer]:
                if suffix not in SHARED_SUFFIXES:
                    Path(f"{copy}{suffix}").rename(f"{fasta}{suffix}")
            _sync_all(fasta.parent)
        self._records.record_built(fasta, facts, indexer)

    def _build(self, source: Path, folder: Path, facts: FastaFacts, indexer: str) -> None:
        """Build `folder` from `source`. It appears only when it is complete.

        If the folder holds files of others, these stay, and the new files are renamed into it one
        by one, the stamp last.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _build_folder(folder.parent) as temporary:
            built = temporary / folder.name
            built.mkdir()
            fasta = built / FASTA
            copy(source, fasta, facts)
            self._index(fasta, str(source), indexer)
            if (alternates := find_alternates(source)) is not None:
                write_alternates(alternates, fasta, source)
            stamp = {"sha256": facts.sha256, "bytes": fasta.stat().st_size}
            (built / _STAMP).write_text(json.dumps(stamp) + "\n", encoding="utf-8")
            _sync_all(built)
            if folder.exists() and _foreign(folder):
                for path in sorted(built.iterdir(), key=lambda path: path.name == _STAMP):
                    path.rename(folder / path.name)
                _sync(folder)
            else:
                if folder.exists():
                    folder.rename(temporary / "replaced")
                built.rename(folder)
        self._records.record_built(folder / FASTA, facts, indexer)

    def _index(self, fasta: Path, source: str, indexer: str) -> None:
        tools = self._tools(more=[indexer])
        faidx = [*tools.samtools.command, "faidx", str(fasta)]
        self._run(faidx, fasta, source, Resources(cores=1))
        program = tools.mapper(indexer) if indexer == "bwa-mem3" else tools.find(indexer)
        index = [*program.command, "index", str(fasta)]
        memory = indexing_memory_mb(indexer, fasta.stat().st_size)
        self._run(index, fasta, source, Resources(cores=1, memory_mb=memory))
        if fault := index_fault(str(fasta), indexer):
            fault = fault.replace(str(fasta), source)
            raise SystemFault(f"indexing {source} failed: {fault}. Is the disk full?")

    def _run(self, command: Sequence[str], fasta: Path, source: str, wanted: Resources) -> None:
        """Run an indexer of `fasta`, a copy of `source`. Messages name `source`."""
        if self._closed.is_set():
            raise SystemFault(f"{source} is not indexed: the server is shutting down.")
        with self._lease(wanted, lambda: not self._closed.is_set()) as descriptors:
            child = subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                pass_fds=descriptors,
            )
            self._children.add(child)
            if self._closed.is_set():  # `close` may have come before the child was listed
                child.kill()
            offer_to_oom_killer(child.pid)
            try:
                _, stderr = child.communicate()
            finally:
                self._children.discard(child)
        if child.returncode < 0:
            raise SystemFault(f"the indexer of {source} was killed by signal {-child.returncode}.")
        if child.returncode:
            reason = failure_reason(stderr.replace(str(fasta), source)) or "no reason given"
            raise SystemFault(f"{source} cannot be indexed: {reason}")


@contextmanager
def _build_folder(parent: Path) -> Iterator[Path]:
    """Yield a temporary folder. Its lock keeps `clean_up` of other processes from removing it."""
    with tempfile.TemporaryDirectory(prefix=_BUILD, dir=parent) as temporary:
        folder = Path(temporary)
        with _locked_folder(folder, fcntl.LOCK_EX):
            yield folder


@contextmanager
def _locked_folder(folder: Path, operation: int) -> Iterator[None]:
    """Lock a folder. Raises BlockingIOError with LOCK_NB if another process has the lock."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, operation)
        yield
    finally:
        os.close(handle)


def _only_fasta(folder: Path) -> Path | None:
    """Return genome.fa in `folder`, or else its only FASTA; plain files precede gzip."""
    if (folder / FASTA).is_file():
        return folder / FASTA
    if not folder.is_dir():
        return None
    files = [path for path in folder.iterdir() if is_fasta_name(path.name)]
    plain = [path for path in files if path.suffix.lower() != ".gz"] or files
    return plain[0] if len(plain) == 1 else None


def _foreign(folder: Path) -> bool:
    """Return whether a folder is a link, or holds files that this module does not make."""
    made = {FASTA, _STAMP, f"{FASTA}.fai", f"{FASTA}.alt"}
    made |= {f"{FASTA}{suffix}" for files in SUFFIXES_OF.values() for suffix in files}
    return folder.is_symlink() or any(
        path.name not in made or path.is_dir() for path in folder.iterdir()
    )


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_all(folder: Path) -> None:
    """Write the files in `folder`, then the folder itself, to the disk."""
    for path in (*folder.iterdir(), folder):
        _sync(path)


def _log(reason: str) -> None:
    log = structlog.get_logger("wesemu.references")
    log.info("using an indexed copy of the reference in the cache", reason=reason)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes and between threads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
