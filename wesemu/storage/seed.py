"""The seed of a server: a folder whose folders become buckets and whose FASTAs become references.

Two new servers with one seed are equal: they have the same objects with the same times, the same
start of emulated time, and the same sequence of ids.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from wesemu.errors import InvalidRequest
from wesemu.genomics.fasta import is_fasta_name
from wesemu.storage.buckets import FOLDER, Buckets

START = datetime(2026, 1, 1, tzinfo=UTC)
"""Emulated time at the first start with a seed, and after each reset to it."""

log = structlog.get_logger("wesemu.seed")
_COMPANIONS = (".alt", ".fai")


@dataclass(frozen=True, slots=True)
class Seed:
    """Folders by bucket name, FASTA files by reference name, and a digest of names and sizes."""

    buckets: dict[str, Path]
    references: dict[str, Path]
    digest: bytes

    @property
    def number(self) -> int:
        """The seed of ids."""
        return int.from_bytes(self.digest[:8])

    def fill_buckets(self, buckets: Path) -> None:
        """Create the buckets that are missing below `buckets`.

        A bucket appears when it is complete. Times of files and folders are those of the seed.
        Raises OSError, and InvalidRequest for a file that cannot be copied, for example a pipe.
        """
        for name, source in self.buckets.items():
            target = buckets / name
            if target.exists():
                continue
            partial = buckets / f".seed-{name}"  # no valid name of a bucket
            shutil.rmtree(partial, ignore_errors=True)
            try:
                shutil.copytree(source, partial, ignore=shutil.ignore_patterns(FOLDER))
            except shutil.Error as error:
                file, _, reason = error.args[0][0]
                raise InvalidRequest(
                    f"the seed cannot be copied: {file}: {reason}", field="seed"
                ) from error
            partial.rename(target)

    def missing_references(self, known: list[str]) -> dict[str, Path]:
        """Return the references whose names are not `known`."""
        return {name: path for name, path in self.references.items() if name not in known}


def read_seed(folder: Path) -> Seed:
    """Return the buckets and references in `folder`. Ignores hidden files, and logs other files.

    Raises InvalidRequest if `folder` is not a folder, if a name in it cannot be that of a
    bucket, or if two files have the name of one reference.
    """
    if not folder.is_dir():
        raise InvalidRequest(f"the seed {folder} is not a folder", field="seed")
    entries = [each for each in sorted(folder.iterdir()) if not each.name.startswith(".")]
    buckets = {each.name: each for each in entries if each.is_dir()}
    if wrong := set(buckets) - set(Buckets(folder).names()):
        raise InvalidRequest(
            f"the folder {min(wrong)!r} of the seed {folder} cannot become a bucket: names have 3 "
            "to 63 lower-case letters, digits and hyphens",
            field="seed",
        )
    references: dict[str, Path] = {}
    for each in filter(_is_fasta, entries):
        other = references.setdefault(_reference_name(each), each)
        if other is not each:
            raise InvalidRequest(
                f"{other.name} and {each.name} of the seed {folder} would become one reference; "
                "rename one of them",
                field="seed",
            )
    known = (*buckets.values(), *references.values())
    for other in entries:
        if other not in known and not other.name.endswith(_COMPANIONS):
            log.warning("a file of the seed is neither a folder nor a FASTA", file=other.name)
    digest = hashlib.sha256()
    for path in _files(folder):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
    return Seed(buckets, references, digest.digest())


def _is_fasta(path: Path) -> bool:
    return path.is_file() and is_fasta_name(path.name)


def _reference_name(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return name.rpartition(".")[0]


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(root, name) for name in sorted(names) if Path(root, name).is_file())
