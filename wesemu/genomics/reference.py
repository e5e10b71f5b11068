"""Reference genomes: registered by name, or made ready from a user's FASTA, indexed once.

A folder is built under a lock in a temporary place and renamed when it is whole. `genome.json`
beside the FASTA holds its SHA-256: an index of another FASTA, or half of one, is not used.
"""

import fcntl
import hashlib
import json
import math
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from wesemu.engines.processes import offer_to_oom_killer
from wesemu.errors import Conflict, InputError, InvalidRequest, SystemFault
from wesemu.genomics.bwaindex import (
    SHARED_SUFFIXES,
    SUFFIXES,
    SUFFIXES_OF,
    check_names,
    index_fault,
    read_fai,
)
from wesemu.genomics.gzipped import GZIP_FAULTS, open_gzip
from wesemu.genomics.sniff import GZIP_MAGIC, looks_like
from wesemu.genomics.tools import Toolset, indexer_name, resolve
from wesemu.runs.model import Resources

FASTA = "genome.fa"
_STAMP = "genome.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_ALIASES = (("hg19", "hs37d5"),)
_FASTA_ENDINGS = (".fa", ".fasta", ".fna", ".fa.gz", ".fasta.gz", ".fna.gz")
_BLOCK = 1 << 20

_SMALL = 50_000_000
_BYTES_OF_SMALL, _BYTES_OF_LARGE = 11, 1.6
"""Memory of `bwa index` a base: 42 MiB were measured for 4 Mbp; beyond _SMALL it is an estimate."""
_BYTES_OF_BWA_MEM2 = 28
_BYTES_OF_BWA_MEM3, _MORE_OF_BWA_MEM3 = 3.1, 300_000_000
"""bwa's transform, the suffix array, and one chunk of them as it is written."""


Lend = Callable[[Resources, Callable[[], bool]], AbstractContextManager[Sequence[int]]]
"""A share of the machine for one program, waited for as long as that is needed; descriptors for
the program to inherit. Raises SystemFault."""


def lend_freely(
    wanted: Resources, needed: Callable[[], bool]
) -> AbstractContextManager[Sequence[int]]:
    """To whoever has the machine alone."""
    return nullcontext(())


class ReferenceStore:
    """`root` holds the registered references, `root/<name>/genome.fa`; `cache` those made from
    other FASTA files, `cache/references/<sha256>/genome.fa`.

    The methods block, for an hour on a human genome; `close` ends their child processes from
    another thread, upon which they raise `SystemFault`. Tools are looked for when first needed.
    """

    def __init__(
        self,
        root: Path,
        cache: Path,
        *,
        tools: Callable[..., Toolset] = resolve,
        lend: Lend = lend_freely,
    ) -> None:
        self._root = root
        self._made = cache / "references"
        self._tools = tools
        self._lend = lend
        self._hashes: dict[tuple[int, int, int, int], str] = {}
        self._children: set[subprocess.Popen[str]] = set()
        self._closed = threading.Event()

    def names(self) -> list[str]:
        """Registered names, sorted. Folders that a user put there by hand count."""
        if not self._root.is_dir():
            return []
        return sorted(
            folder.name
            for folder in self._root.iterdir()
            if _NAME.fullmatch(folder.name) and _only_fasta(folder)
        )

    def find(self, name: str) -> Path | None:
        """The FASTA of a registered reference; upper and lower case and aliases are one."""
        wanted = name.lower()
        for candidate in (wanted, *(to for alias, to in _ALIASES if alias == wanted)):
            if _NAME.fullmatch(candidate) and (fasta := _only_fasta(self._root / candidate)):
                return fasta
        return None

    def add(self, name: str, fasta: Path, mapper: str = "bwa") -> Path:
        """Register a copy of `fasta` (plain or gzip) as `name`, indexed; answers its path.

        What is registered with these sequences gets the index that `mapper` wants and it lacks.
        Raises `InvalidRequest` for the name, `InputError` for the FASTA, `Conflict` where
        the name stands for another sequence, `SystemFault` where a tool fails, `ToolMissing`.
        """
        name = name.lower()
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                f"{name!r} cannot name a reference: up to 64 of a-z, 0-9, '.', '_' and '-', "
                "the first a letter or digit.",
                field="name",
            )
        digest = self._digest(fasta)
        target = self._root / name / FASTA
        with _locked(self._root / f".{name}.lock"):
            present = _only_fasta(target.parent)
            if present is not None and self._digest(present) != digest:
                raise Conflict(
                    f"The reference {name} exists already with other sequences; remove it "
                    "first or choose another name."
                )
            self._provide(fasta, target, digest, indexer_name(mapper, self._tools))
        return target

    def ready(self, fasta: Path, mapper: str = "bwa") -> Path:
        """An indexed FASTA with the sequences of `fasta`, for `mapper` and for faidx.

        `fasta` itself where a whole index lies beside it; else the cached one, made now if need
        be. Raises `InputError`, `SystemFault`, `ToolMissing`.
        """
        indexer = indexer_name(mapper, self._tools)
        if not _is_gzip(fasta) and index_fault(str(fasta), indexer) is None:
            stamp = _read_stamp(fasta)
            if stamp is None or stamp == self._digest(fasta):
                check_names((name for name, _ in read_fai(str(fasta))), str(fasta))
                return fasta
        digest = self._digest(fasta)
        target = self._made / digest / FASTA
        with _locked(self._made / f".{digest}.lock"):
            self._provide(fasta, target, digest, indexer)
        return target

    def close(self) -> None:
        """End what is being indexed. Idempotent; the store answers no more builds."""
        self._closed.set()
        for child in list(self._children):
            child.kill()

    def _digest(self, fasta: Path) -> str:
        """SHA-256 of the uncompressed FASTA; remembered while the file stays as it is."""
        try:
            status = fasta.stat()
            key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            if key not in self._hashes:
                digest = hashlib.sha256()
                for block in _blocks(fasta):
                    digest.update(block)
                self._hashes[key] = digest.hexdigest()
        except GZIP_FAULTS as error:
            raise InputError(f"{fasta} cannot be read: {error}.", file=str(fasta)) from error
        return self._hashes[key]

    def _provide(self, source: Path, target: Path, digest: str, indexer: str) -> None:
        """See to it that `target` has the sequences of `source` and this program's index."""
        if _is_whole(target, digest, indexer):
            return
        if any(_is_whole(target, digest, other) for other in SUFFIXES_OF):
            self._extend(target, str(source), indexer)
            return
        self._build(source, target.parent, digest, indexer)

    def _extend(self, fasta: Path, source: str, indexer: str) -> None:
        """Put another program's index beside `fasta`, file by file, once it is whole. Files that
        it shares with the one that is there stay: runs may be reading them."""
        with tempfile.TemporaryDirectory(prefix=".build-", dir=fasta.parent.parent) as temporary:
            copy = Path(temporary) / FASTA
            copy.symlink_to(fasta.resolve())
            if indexer == "bwa-mem3" and index_fault(str(fasta)) is None:
                # it is made from bwa's, and changes none of those files
                for suffix in SUFFIXES:
                    Path(f"{copy}{suffix}").symlink_to(f"{fasta.resolve()}{suffix}")
            self._index(copy, source, indexer)
            _sync(Path(temporary))
            for suffix in SUFFIXES_OF[indexer]:
                if suffix not in SHARED_SUFFIXES:
                    Path(f"{copy}{suffix}").rename(f"{fasta}{suffix}")
            _sync(fasta.parent)

    def _build(self, source: Path, folder: Path, digest: str, indexer: str) -> None:
        """Make `folder` anew from `source`; nobody sees it half done.

        Where the folder holds files that are not made here, they stay: the new ones are put beside
        them one by one, the stamp last.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=folder.parent) as temporary:
            built = Path(temporary) / folder.name
            built.mkdir()
            fasta = built / FASTA
            _copy(source, fasta)
            self._index(fasta, str(source), indexer)
            stamp = {"sha256": digest, "bytes": fasta.stat().st_size}
            (built / _STAMP).write_text(json.dumps(stamp) + "\n", encoding="utf-8")
            _sync(built)
            if folder.exists() and _foreign(folder):
                for path in sorted(built.iterdir(), key=lambda path: path.name == _STAMP):
                    path.rename(folder / path.name)
                _sync_folder(folder)
                return
            if folder.exists():
                folder.rename(Path(temporary) / "replaced")
            built.rename(folder)

    def _index(self, fasta: Path, source: str, indexer: str) -> None:
        tools = self._tools(more=[indexer])
        faidx = [*tools.samtools.command, "faidx", str(fasta)]
        talk = self._run(faidx, source, Resources(cores=1))
        if "Ignoring duplicate" in talk:
            raise InputError(
                f"{source} has two sequences of one name: {_last_line(talk)}. Rename one.",
                file=source,
            )
        check_names((name for name, _ in read_fai(str(fasta))), source)
        program = tools.mapper(indexer) if indexer == "bwa-mem3" else tools.find(indexer)
        index = [*program.command, "index", str(fasta)]
        self._run(index, source, _appetite(indexer, fasta.stat().st_size))
        if fault := index_fault(str(fasta), indexer):
            raise SystemFault(f"Indexing {source} has failed: {fault}. Is the disk full?")

    def _run(self, command: Sequence[str], source: str, wanted: Resources) -> str:
        """Run an indexer to its end; answers what it said."""
        if self._closed.is_set():
            raise SystemFault(f"{source} is not indexed: the server is shutting down.")
        with self._lend(wanted, lambda: not self._closed.is_set()) as kept:
            child = subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                pass_fds=kept,
            )
            self._children.add(child)
            offer_to_oom_killer(child.pid)
            try:
                _, talk = child.communicate()
            finally:
                self._children.discard(child)
        if child.returncode < 0:
            raise SystemFault(f"Indexing {source} was ended by signal {-child.returncode}.")
        if child.returncode:
            raise InputError(f"{source} cannot be indexed: {_last_line(talk)}", file=source)
        return talk


def _appetite(indexer: str, size: int) -> Resources:
    """What indexing a FASTA of so many bytes takes: one core, and memory."""
    needed = max(min(size, _SMALL) * _BYTES_OF_SMALL, size * _BYTES_OF_LARGE)
    if indexer == "bwa-mem2":
        needed = size * _BYTES_OF_BWA_MEM2
    elif indexer == "bwa-mem3":
        needed = max(needed, size * _BYTES_OF_BWA_MEM3 + _MORE_OF_BWA_MEM3)
    return Resources(cores=1, memory_mb=math.ceil(needed / 2**20))


def _last_line(talk: str) -> str:
    return " ".join(talk.strip().splitlines()[-1:]) or "no reason given"


def _only_fasta(folder: Path) -> Path | None:
    """genome.fa in `folder`, else its only FASTA, plain before gzip."""
    if (folder / FASTA).is_file():
        return folder / FASTA
    if not folder.is_dir():
        return None
    found = [path for path in folder.iterdir() if path.name.endswith(_FASTA_ENDINGS)]
    plain = [path for path in found if path.suffix != ".gz"] or found
    return plain[0] if len(plain) == 1 else None


def _is_whole(fasta: Path, digest: str, indexer: str) -> bool:
    return _read_stamp(fasta) == digest and index_fault(str(fasta), indexer) is None


def _read_stamp(fasta: Path) -> str | None:
    """The hash that was noted when `fasta` was indexed; None without one for this very name."""
    if fasta.name != FASTA:
        return None
    try:
        noted = json.loads((fasta.parent / _STAMP).read_text(encoding="utf-8"))
        return str(noted["sha256"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _is_gzip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) == GZIP_MAGIC
    except OSError as error:
        raise InputError(
            f"The reference {path} cannot be opened: {error.strerror}.", file=str(path)
        ) from error


def _blocks(path: Path) -> Iterator[bytes]:
    """The uncompressed contents of a FASTA. Raises `InputError` if it is something else."""
    with open_gzip(path) if _is_gzip(path) else path.open("rb") as file:
        block = file.read(_BLOCK)
        if not block.startswith((b">", b";")):
            what = f"it looks like {looks_like(block[:64])}" if block else "it is empty"
            raise InputError(f"{path} is not FASTA: {what}.", file=str(path))
        while block:
            yield block
            block = file.read(_BLOCK)


def _copy(source: Path, target: Path) -> None:
    with target.open("wb") as file:
        for block in _blocks(source):
            file.write(block)


def _foreign(folder: Path) -> bool:
    """Whether a folder is a link, or holds something that this module does not make."""
    made = {FASTA, _STAMP, f"{FASTA}.fai"}
    made |= {f"{FASTA}{suffix}" for files in SUFFIXES_OF.values() for suffix in files}
    return folder.is_symlink() or any(
        path.name not in made or path.is_dir() for path in folder.iterdir()
    )


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes and between threads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
