"""A folder of reads that stands for one sample: its lanes, found by the files' names."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

from wesemu.errors import InvalidRequest

_FASTQ = re.compile(r"\.(fq|fastq)(\.gz)?$", re.IGNORECASE)
_COMPRESSED = re.compile(r"\.(fq|fastq)\.(bz2|xz|zst|zip|lz4|7z|z)$", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z0-9]+")
_MARKED_MATE = re.compile(r"(?:R|read|mate)[12]", re.IGNORECASE)
_PLAIN_MATE = re.compile(r"[12]P?", re.IGNORECASE)
_THIRD_READ = re.compile(r"R[34]", re.IGNORECASE)
_NO_PAIR = re.compile(
    r"I[12]|[12]U|unpaired[12]?|singles?|singletons?|orphans?|undetermined", re.IGNORECASE
)
"""Words of files that hold no pairs of the sample: index reads, reads whose mate was discarded,
reads of no sample."""

_ILLUMINA = re.compile(r"(?P<sample>.+?)_S\d+_(?:L\d{3}_)?R[12]_\d{3}")
"""Names of bcl2fastq and BCL Convert: sample, its number on the sheet, lane, read, chunk."""

_PROCESSED = frozenset(
    {"clean", "trimmed", "trim", "trimming", "val", "paired", "filtered", "filt", "fastp", "qc"}
    | {"cutadapt", "raw", "rawdata", "cleandata"}
)
"""Words that tell what was done with the reads, not which reads they are."""


@dataclass(frozen=True, slots=True)
class _ReadFile:
    """`mate` is 1 or 2. Mates of a pair have one `pair`; files of the same reads, trimmed and
    not, have one `reads` for each mate."""

    path: Path
    mate: str
    pair: tuple[Path, str]
    reads: str


def lanes(folder: Path, *, field: str | None = None) -> list[tuple[Path, Path]]:
    """The pairs of files in `folder` and below it (`L1/`, `L2/`, …), in natural order.

    The last word of a name that is `1` or `2`, `R1` or `R2` tells the mate; what follows (`001`,
    `clean`, `val_1`) may be anything. Hidden files and those of `is_reads` are passed over.
    Raises InvalidRequest, naming the file: one without a mate, one of an unknown kind, a link that
    leaves the folder, the same reads twice; also where there are no reads at all.
    """
    pairs: dict[tuple[Path, str], dict[str, Path]] = {}
    kinds: dict[str, Path] = {}
    samples: dict[str, Path] = {}
    for path in sorted(_read_files(folder), key=lambda path: _natural(folder, path)):
        _check_place(folder, path, field)
        found = _recognise(folder, path, field)
        other = kinds.setdefault(found.reads, path)
        if other != path:
            raise InvalidRequest(
                f"{_shown(folder, other)} and {_shown(folder, path)} in {folder.name!r} seem to "
                "be the same reads, for example before and after trimming; take one away, or "
                "name the files",
                field=field,
            )
        pairs.setdefault(found.pair, {})[found.mate] = path
        if (match := _ILLUMINA.match(path.name)) is not None:
            samples.setdefault(match["sample"], path)
    _check_sample(folder, samples, field)
    for mates in pairs.values():
        _check_pair(folder, mates, field)
    if not pairs:
        raise InvalidRequest(
            f"the folder {folder.name!r} holds no pairs of FASTQ files (…_1.fq.gz and …_2.fq.gz)",
            field=field,
        )
    return [(mates["1"], mates["2"]) for mates in pairs.values()]


def is_reads(key: str) -> bool:
    """Whether `lanes` looks at this file, by its path below the folder: a FASTQ that is not
    hidden and may hold pairs of the sample. Index reads (`_I1_`), reads without a mate (`_1U`,
    `_unpaired`) and `Undetermined_…` do not."""
    parts = PurePosixPath(key).parts
    if any(part.startswith(".") for part in parts):
        return False
    if not (_FASTQ.search(key) or _COMPRESSED.search(key)):
        return False
    return not any(_NO_PAIR.fullmatch(word) for word in _WORD.findall(_stem(parts[-1])))


def _recognise(folder: Path, path: Path, field: str | None) -> _ReadFile:
    if _COMPRESSED.search(path.name):
        raise InvalidRequest(
            f"{_shown(folder, path)} in {folder.name!r} is neither plain nor gzip; compress it "
            "with gzip",
            field=field,
        )
    stem = _stem(path.name)
    words = [(match[0], match.start()) for match in _WORD.finditer(stem)]
    if any(_THIRD_READ.fullmatch(word) for word, _ in words):
        raise InvalidRequest(
            f"{_shown(folder, path)} in {folder.name!r} is a third read, so R2 may be a barcode; "
            "name the files of the two mates",
            field=field,
        )
    choices = _mate_digits(words)
    if not choices:
        raise InvalidRequest(
            f"{_shown(folder, path)} in {folder.name!r} does not say which mate it is; name the "
            "files …_1.fq.gz and …_2.fq.gz",
            field=field,
        )
    mate = stem[choices[0][0]]
    ending = path.name[len(stem) :]
    with_mate = (
        digits
        for digits in choices
        if path.with_name(_replaced(stem, digits, "21"[int(mate) - 1]) + ending).exists()
    )
    digits = next(with_mate, choices[0])
    pair = _replaced(stem, digits, "*")
    untrimmed = re.sub(r"[^A-Za-z0-9]val.\*", "", pair) if len(digits) > 1 else pair
    words_of_reads = re.findall(r"[A-Za-z0-9*]+", str(path.relative_to(folder).parent / untrimmed))
    kept = [word.replace("*P", "*") for word in words_of_reads if word.lower() not in _PROCESSED]
    return _ReadFile(path, mate, (path.parent, pair + ending), f"{mate} {' '.join(kept)}")


def _replaced(stem: str, positions: Sequence[int], letter: str) -> str:
    return "".join(letter if place in positions else each for place, each in enumerate(stem))


def _mate_digits(words: Sequence[tuple[str, int]]) -> list[list[int]]:
    """Where the digits that tell the mate may stand, the likeliest choice first. Of `s_1_val_1`
    (Trim Galore) both do, unless `s_1` is the sample."""
    marked = [_digit(word, start) for word, start in words if _MARKED_MATE.fullmatch(word)]
    plain = [_digit(word, start) for word, start in words if _PLAIN_MATE.fullmatch(word)]
    trimmed = [
        _digit(word, start)
        for (before, _), (word, start) in pairwise(words)
        if before.lower() == "val" and word in ("1", "2")
    ]
    if not trimmed:
        found = marked or plain
        return [[found[-1][0]]] if found else []
    position, mate = trimmed[-1]
    earlier = [each for each in (marked or plain) if each[0] < position and each[1] == mate]
    return [*([position, place] for place, _ in earlier[-1:]), [position]]


def _digit(word: str, start: int) -> tuple[int, str]:
    """Where in the name the 1 or 2 of a word stands, and which it is."""
    offset = next(index for index, letter in enumerate(word) if letter in "12")
    return start + offset, word[offset]


def _stem(name: str) -> str:
    return _COMPRESSED.sub("", _FASTQ.sub("", name))


def _check_place(folder: Path, path: Path, field: str | None) -> None:
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InvalidRequest(
            f"{_shown(folder, path)} in {folder.name!r} is a link that leaves the folder; "
            "copy the file into it",
            field=field,
        )


def _check_sample(folder: Path, samples: Mapping[str, Path], field: str | None) -> None:
    if len(samples) > 1:
        (name, path), (other_name, other), *_ = samples.items()
        raise InvalidRequest(
            f"{_shown(folder, path)} and {_shown(folder, other)} in {folder.name!r} are of the "
            f"samples {name!r} and {other_name!r}; give each sample a folder and a run of its own",
            field=field,
        )


def _check_pair(folder: Path, mates: Mapping[str, Path], field: str | None) -> None:
    if len(mates) == 1:
        (present,) = mates
        missing = "21"[int(present) - 1]
        raise InvalidRequest(
            f"{_shown(folder, mates[present])} in {folder.name!r} has no mate; add "
            f"the file with {missing} instead of {present}, or take this one away",
            field=field,
        )


def _shown(folder: Path, path: Path) -> str:
    return repr(str(path.relative_to(folder)))


def _read_files(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if is_reads(name):
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
