"""A folder of reads that stands for one sample: its lanes, found by the files' names."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from wesemu.errors import InvalidRequest

_FASTQ = re.compile(r"\.(fq|fastq)(\.gz)?$", re.IGNORECASE)
_MATE = re.compile(
    r"^(?:.*[._-])?R?(?P<mate>[12])(?:_\d{3})?\.(?:fq|fastq)(?:\.gz)?$", re.IGNORECASE
)


def lanes(folder: Path, *, field: str | None = None) -> list[tuple[Path, Path]]:
    """The pairs of files in `folder` and below it (`L1/`, `L2/`, …), in natural order.

    Mates are told by `_1`/`_2` or `_R1`/`_R2` before `.fq` or `.fastq`, plain or `.gz`, with
    Illumina's `_001` allowed between. Other files and hidden ones are passed over. Raises
    InvalidRequest for a FASTQ file without its mate or a link that leaves the folder, naming
    it, and when there are no reads at all.
    """
    pairs: dict[tuple[Path, str], dict[str, Path]] = {}
    for path in sorted(_fastq_files(folder), key=lambda path: _natural(folder, path)):
        shown = str(path.relative_to(folder))
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InvalidRequest(
                f"{shown!r} in {folder.name!r} is a link that leaves the folder; "
                "copy the file into it",
                field=field,
            )
        match = _MATE.match(path.name)
        if not match:
            raise InvalidRequest(
                f"{shown!r} in {folder.name!r} does not say which mate it is; name the files "
                "…_1.fq.gz and …_2.fq.gz",
                field=field,
            )
        begin, end = match.span("mate")
        pair = (path.parent, path.name[:begin] + path.name[end:])
        pairs.setdefault(pair, {})[match["mate"]] = path
    for mates in pairs.values():
        _check_pair(folder, mates, field)
    if not pairs:
        raise InvalidRequest(
            f"the folder {folder.name!r} holds no FASTQ files (…_1.fq.gz and …_2.fq.gz)",
            field=field,
        )
    return [(mates["1"], mates["2"]) for mates in pairs.values()]


def is_reads(key: str) -> bool:
    """Whether `lanes` would look at this file, by its path below the folder."""
    return _FASTQ.search(key) is not None and not any(
        part.startswith(".") for part in key.split("/")
    )


def _check_pair(folder: Path, mates: dict[str, Path], field: str | None) -> None:
    if len(mates) == 1:
        (present,) = mates
        missing = "21"[int(present) - 1]
        raise InvalidRequest(
            f"{str(mates[present].relative_to(folder))!r} in {folder.name!r} has no mate; add "
            f"the file with {missing} instead of {present}, or take this one away",
            field=field,
        )


def _fastq_files(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if _FASTQ.search(name) and not name.startswith("."):
                yield Path(parent, name)


def _natural(folder: Path, path: Path) -> list[list[tuple[bool, int, str]]]:
    """Sorts L2 before L10, and a folder's own files by their names."""
    return [
        [
            (piece.isdecimal(), int(piece) if piece.isdecimal() else 0, piece)
            for piece in re.split(r"([0-9]+)", part)
            if piece
        ]
        for part in path.relative_to(folder).parts
    ]
