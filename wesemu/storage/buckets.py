"""Buckets: a bucket is a folder below one root, a key the path below it.

A folder (or a link to one) that a user makes by hand is a bucket. Everything here is synchronous
and quick; callers on the event loop use `asyncio.to_thread`.
"""

import errno
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice, pairwise
from pathlib import Path, PurePosixPath

from wesemu.errors import BucketNameRefused, BucketNotFound, InvalidRequest, ObjectNotFound

# Names in a bucket's folder that are no keys: what the server keeps there, and temporary files.


FOLDER = ".wesemu"
RECORDS = f"{FOLDER}/records"
INCOMING = f"{FOLDER}/incoming"
UPLOADS = f"{FOLDER}/uploads"


def is_reserved(key: str) -> bool:
    """True for what no client may see or write.

    `.<name>.part` is what a file is called while a job or the command line writes it. Case does
    not matter: on some file systems `.WESEMU` is the same folder.
    """
    name = key.rpartition("/")[2]
    return key.partition("/")[0].casefold() == FOLDER or (
        name.startswith(".") and name.endswith(".part")
    )


def sync_folders(folder: Path, top: Path) -> None:
    """Make names durable in `folder` and in those above it, up to `top`."""
    for parent in (folder, *folder.parents):
        descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if parent == top:
            return


def remove_empty(folder: Path) -> bool:
    """Remove a folder and all empty ones below it; False where a file is left somewhere."""
    for parent, _, _ in os.walk(folder, topdown=False):
        try:
            Path(parent).rmdir()
        except OSError:
            return False
    return True


# A folder of reads that stands for one sample: its lanes, found by the files' names.


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


def read_pairs(folder: Path, *, field: str | None = None) -> list[tuple[Path, Path]]:
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
                f"{_shown_path(folder, other)} and {_shown_path(folder, path)} in "
                f"{folder.name!r} seem to "
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
            f"{_shown_path(folder, path)} in {folder.name!r} is neither plain nor gzip; "
            "compress it "
            "with gzip",
            field=field,
        )
    stem = _stem(path.name)
    words = [(match[0], match.start()) for match in _WORD.finditer(stem)]
    if any(_THIRD_READ.fullmatch(word) for word, _ in words):
        raise InvalidRequest(
            f"{_shown_path(folder, path)} in {folder.name!r} is a third read, so R2 may be a "
            "barcode; "
            "name the files of the two mates",
            field=field,
        )
    choices = _mate_digits(words)
    if not choices:
        raise InvalidRequest(
            f"{_shown_path(folder, path)} in {folder.name!r} does not say which mate it is; "
            "name the "
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
            f"{_shown_path(folder, path)} in {folder.name!r} is a link that leaves the folder; "
            "copy the file into it",
            field=field,
        )


def _check_sample(folder: Path, samples: Mapping[str, Path], field: str | None) -> None:
    if len(samples) > 1:
        (name, path), (other_name, other), *_ = samples.items()
        raise InvalidRequest(
            f"{_shown_path(folder, path)} and {_shown_path(folder, other)} in {folder.name!r} "
            "are of the "
            f"samples {name!r} and {other_name!r}; give each sample a folder and a run of its own",
            field=field,
        )


def _check_pair(folder: Path, mates: Mapping[str, Path], field: str | None) -> None:
    if len(mates) == 1:
        (present,) = mates
        missing = "21"[int(present) - 1]
        raise InvalidRequest(
            f"{_shown_path(folder, mates[present])} in {folder.name!r} has no mate; add "
            f"the file with {missing} instead of {present}, or take this one away",
            field=field,
        )


def _shown_path(folder: Path, path: Path) -> str:
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


SCHEME = "oss://"
_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_KEY_LIMIT = 1023
_PART_LIMIT = 255
_NAMES_SHOWN = 10
_NAMES_READ = 1000


class Buckets:
    """The buckets below `root`.

    `field` names the parameter that the caller filled in; every error carries it on.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        """The buckets there are, sorted; folders whose name no bucket can have are left out."""
        if not self._root.is_dir():
            return []
        return sorted(
            entry.name
            for entry in self._root.iterdir()
            if _BUCKET_NAME.fullmatch(entry.name) and entry.is_dir()
        )

    def locate(self, bucket: str, key: str, *, field: str | None = None) -> Path:
        """The path that a key stands for, whether or not something lies there.

        The path lies in its bucket, also after all links are followed. Raises InvalidRequest
        for a bucket name or key that OSS or the file system cannot have, that leaves the bucket
        or names the server's own files in it; BucketNotFound.
        """
        folder = self.folder(bucket, field=field)
        path = folder.joinpath(*check_key(key, field=field))
        inside = _inside(folder, path)
        if inside is None:
            raise InvalidRequest(
                f"the key {_shown(key)} is a link that leads out of the bucket {bucket!r}; "
                "copy the file into the bucket",
                field=field,
            )
        if is_reserved(key) or is_reserved(inside) or self._is_reserved(folder, path):
            raise InvalidRequest(
                f"the key {_shown(key)} is kept for the server's own files (.wesemu/ at a bucket's "
                "top, and names like .x.part); choose another name",
                field=field,
            )
        return path

    def existing(self, url: str, *, field: str | None = None) -> Path:
        """The file or folder at an `oss://` location; a folder's key may end with `/`.

        Raises as `locate`, and ObjectNotFound.
        """
        bucket, key = parse(url, field=field)
        path = self.locate(bucket, key.removesuffix("/"), field=field)
        if not path.exists():
            raise ObjectNotFound(
                f"the bucket {bucket!r} has no {_shown(key)}; {_nearby(path)}", field=field
            )
        return path

    def existing_file(self, url: str, *, field: str | None = None) -> Path:
        """The file at an `oss://` location. Raises as `existing`."""
        path = self.existing(url, field=field)
        if not path.is_file():
            raise ObjectNotFound(f"{url} is a folder; name a file in it", field=field)
        return path

    def target(self, url: str, *, field: str | None = None) -> Path:
        """The path where an output may be written; its folders need not be there yet.

        Raises as `locate`, and InvalidRequest where a folder is in the way of the file, or a
        file in the way of its folders.
        """
        bucket, key = parse(url, field=field)
        path = self.locate(bucket, key, field=field)
        if path.is_dir():
            raise InvalidRequest(f"{url} is a folder; name the file to write", field=field)
        folder = self._root / bucket
        for parent in path.relative_to(folder).parents:
            if (folder / parent).exists() and not (folder / parent).is_dir():
                raise InvalidRequest(
                    f"{url} cannot be written: {str(parent)!r} is a file, not a folder",
                    field=field,
                )
        return path

    def folder(self, bucket: str, *, field: str | None = None) -> Path:
        """Raises BucketNameRefused, BucketNotFound."""
        if not _BUCKET_NAME.fullmatch(bucket):
            raise BucketNameRefused(
                f"{_shown(bucket)} is not a bucket name: 3 to 63 lower-case letters, digits and "
                "hyphens, with a letter or digit at both ends",
                field=field,
            )
        folder = self._root / bucket
        if not folder.is_dir():
            raise BucketNotFound(
                f"there is no bucket {bucket!r}; {_listed(self.names())}; make the folder "
                f"'buckets/{bucket}' in the data directory to have it",
                field=field,
            )
        return folder

    def _is_reserved(self, folder: Path, path: Path) -> bool:
        """Whether a bucket that is a link leads to the server's own files in another bucket."""
        if not folder.is_symlink():
            return False
        below = _inside(self._root, path)
        return below is not None and is_reserved(below.partition("/")[2])


def parse(url: str, *, field: str | None = None) -> tuple[str, str]:
    """Bucket and key of `oss://bucket/key`; nothing in it is percent-decoded.

    Raises InvalidRequest for anything else.
    """
    bucket, slash, key = url.removeprefix(SCHEME).partition("/")
    if not url.startswith(SCHEME) or not slash or not key:
        raise InvalidRequest(
            f"{_shown(url)} is not a location in a bucket; write oss://<bucket>/<key>",
            field=field,
        )
    return bucket, key


def check_key(key: str, *, field: str | None = None) -> list[str]:
    """The names that a key's path has. Raises InvalidRequest for a key that is no path."""
    parts = key.split("/")
    if any(unicodedata.category(letter).startswith("C") for letter in key):
        fault = "has a control character or one that is no character"
    elif key.startswith(("/", "\\")):
        fault = "is absolute; a key begins with a name"
    elif "" in parts:
        fault = "has an empty part; write single slashes between names and none at the end"
    elif ".." in parts or "." in parts:
        fault = "has '.' or '..'; write the path from the bucket's top"
    elif len(key.encode()) > _KEY_LIMIT:
        fault = f"is longer than {_KEY_LIMIT} bytes"
    elif any(len(part.encode()) > _PART_LIMIT for part in parts):
        fault = f"has a name longer than {_PART_LIMIT} bytes"
    else:
        return parts
    raise InvalidRequest(f"the key {_shown(key)} {fault}", field=field)


def _inside(folder: Path, path: Path) -> str | None:
    """The path below `folder` once all links are followed; None for one that leads out of it."""
    try:
        try:
            real = path.resolve(strict=True)
        except OSError as error:
            if error.errno == errno.ELOOP:  # which else is no error since Python 3.13
                return None
            real = path.resolve()
        return real.relative_to(folder.resolve()).as_posix()
    except (OSError, RuntimeError, ValueError):
        return None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "…")


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "there are no buckets yet"
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"the buckets are {', '.join(names[:_NAMES_SHOWN])}{more}"


def _nearby(path: Path) -> str:
    """What there is instead of a missing path: names like it, or that its folder is missing."""
    if not path.parent.is_dir():
        return f"the folder {path.parent.name!r} is not there either"
    with os.scandir(path.parent) as entries:
        names = [entry.name for entry in islice(entries, _NAMES_READ)]
    close = get_close_matches(path.name, sorted(names), n=3)
    if close:
        return f"there is {' and '.join(repr(name) for name in close)}"
    return "upload it, or copy it into the bucket's folder"
