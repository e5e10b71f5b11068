"""Buckets: each bucket is a folder below one root, each key a path below the bucket.

A folder, or a link to a folder, that a user creates by hand is a bucket. The parts of this module
are reserved names, lanes (pairs of FASTQ files in a folder), and buckets with their keys.
Everything is synchronous and quick; callers on the event loop use `asyncio.to_thread`.
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
from wesemu.runs.run_directory import sync_folder

FOLDER = ".wesemu"
RECORDS = f"{FOLDER}/records"
INCOMING = f"{FOLDER}/incoming"
UPLOADS = f"{FOLDER}/uploads"


def is_reserved(key: str) -> bool:
    """Return True for keys that clients may neither see nor write.

    A file is called `.<name>.part` while a run or the command line writes it. Case is ignored: on
    some file systems `.WESEMU` is the same folder.
    """
    name = key.rpartition("/")[2]
    return key.partition("/")[0].casefold() == FOLDER or (
        name.startswith(".") and name.endswith(".part")
    )


def sync_folders(folder: Path, top: Path) -> None:
    """Sync the directory entries of `folder` and its parents up to `top` to disk."""
    for parent in (folder, *folder.parents):
        sync_folder(parent)
        if parent == top:
            return


def remove_empty(folder: Path) -> bool:
    """Remove a folder and its empty subfolders. Return False if a file remains."""
    for parent, _, _ in os.walk(folder, topdown=False):
        try:
            Path(parent).rmdir()
        except OSError:
            return False
    return True


# Lanes of a sample: pairs of FASTQ files in one folder.

_FASTQ = re.compile(r"\.(fq|fastq)(\.(gz|gzip|bgz|bgzf))?$", re.IGNORECASE)
_COMPRESSED = re.compile(
    r"\.(fq|fastq)(\.gz)?\.(bz2|xz|lzma|zst|zstd|zip|lz4|lz|7z|z|br|ora|dsrc|spring|gpg|c4gh|enc)$",
    re.IGNORECASE,
)
"""Compressed or encrypted reads that no mapper reads; `ora` is Illumina's format."""

_UNFINISHED = re.compile(
    r"\.(fq|fastq)(\.gz)?\.(part|partial|filepart|tmp|crdownload|aria2)$", re.IGNORECASE
)
"""Files that a download or copy leaves until it ends."""

_WORD = re.compile(r"[A-Za-z0-9]+")
_MARKED_MATE = re.compile(r"(?:R|read|mate)[12]", re.IGNORECASE)
_PLAIN_MATE = re.compile(r"[12]P?", re.IGNORECASE)
_THIRD_READ = re.compile(r"R[34]", re.IGNORECASE)
_NO_PAIR = re.compile(
    r"I[12]|[12]U|unpaired[12]?|singles?|singletons?|orphans?|undetermined", re.IGNORECASE
)
"""Words in the names of files without pairs of the sample: index reads, reads whose mate was
discarded, reads of no sample.
"""

_ILLUMINA = re.compile(r"(?P<sample>.+?)_S\d+_(?:L\d{3}_)?R[12]_\d{3}")
"""File names of bcl2fastq and BCL Convert: sample, sample number, lane, read, chunk."""

_PROCESSED = frozenset(
    {"clean", "trimmed", "trim", "trimming", "val", "paired", "filtered", "filt", "fastp", "qc"}
    | {"cutadapt", "raw", "rawdata", "cleandata"}
)
"""Words that describe the processing of reads, not their identity."""


@dataclass(frozen=True, slots=True)
class _ReadFile:
    """One FASTQ file.

    `mate` is 1 or 2. Both mates have the same `pair`. Files of the same reads, for example before
    and after trimming, have the same `reads` per mate.
    """

    path: Path
    mate: str
    pair: tuple[Path, str]
    reads: str


def read_pairs(folder: Path, *, field: str | None = None) -> list[tuple[Path, Path]]:
    """Return the pairs of FASTQ files in `folder` and its subfolders (`L1/`, `L2/`, …), in natural
    order.

    The last word `1`, `2`, `R1` or `R2` in a name gives the mate; any words may follow (`001`,
    `clean`, `val_1`). Hidden files and files rejected by `is_reads` are skipped.

    Raise InvalidRequest, naming the file, for a missing mate, an unknown compression, a link that
    leaves the folder and duplicate reads; also if there are no reads.
    """
    pairs: dict[tuple[Path, str], dict[str, Path]] = {}
    seen: dict[str, Path] = {}
    samples: dict[str, Path] = {}
    for path in sorted(_read_files(folder), key=lambda path: _natural_order(folder, path)):
        _check_inside(folder, path, field)
        file = _classify(folder, path, field)
        other = seen.setdefault(file.reads, path)
        if other != path:
            raise InvalidRequest(
                f"{_relative(folder, other)} and {_relative(folder, path)} in "
                f"{folder.name!r} seem to be the same reads, for example before and after "
                "trimming; remove one, or name the files",
                field=field,
            )
        pairs.setdefault(file.pair, {})[file.mate] = path
        if (match := _ILLUMINA.match(path.name)) is not None:
            samples.setdefault(match["sample"], path)
    _check_sample(folder, samples, field)
    for mates in pairs.values():
        _check_pair(folder, mates, field)
    if not pairs:
        raise InvalidRequest(
            f"the folder {folder.name!r} holds no pairs of FASTQ files (…_1.fq.gz and …_2.fq.gz)"
            f"{_ignored_reads(folder)}",
            field=field,
        )
    return [(mates["1"], mates["2"]) for mates in pairs.values()]


def is_reads(key: str) -> bool:
    """Return True for a FASTQ path (relative to the folder) that may hold pairs of the sample.

    False for hidden files, index reads (`_I1_`), reads without a mate (`_1U`, `_unpaired`) and
    `Undetermined_…`.
    """
    parts = PurePosixPath(key).parts
    if any(part.startswith(".") for part in parts):
        return False
    if not any(kind.search(key) for kind in (_FASTQ, _COMPRESSED, _UNFINISHED)):
        return False
    return not any(_NO_PAIR.fullmatch(word) for word in _WORD.findall(_without_suffix(parts[-1])))


def _classify(folder: Path, path: Path, field: str | None) -> _ReadFile:
    if _COMPRESSED.search(path.name):
        raise InvalidRequest(
            f"{_relative(folder, path)} in {folder.name!r} is neither plain nor gzip; "
            "compress it with gzip",
            field=field,
        )
    if _UNFINISHED.search(path.name):
        raise InvalidRequest(
            f"{_relative(folder, path)} in {folder.name!r} is left of a download or copy that has "
            "not ended; finish it, or remove the file",
            field=field,
        )
    stem = _without_suffix(path.name)
    words = [(match[0], match.start()) for match in _WORD.finditer(stem)]
    if any(_THIRD_READ.fullmatch(word) for word, _ in words):
        raise InvalidRequest(
            f"{_relative(folder, path)} in {folder.name!r} is a third read, so R2 may be a "
            "barcode; name the files of the two mates",
            field=field,
        )
    choices = _mate_digits(words)
    if not choices:
        raise InvalidRequest(
            f"{_relative(folder, path)} in {folder.name!r} does not say which mate it is; "
            "name the files …_1.fq.gz and …_2.fq.gz",
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
    return "".join(letter if index in positions else each for index, each in enumerate(stem))


def _mate_digits(words: Sequence[tuple[str, int]]) -> list[list[int]]:
    """Return the candidate positions of the digits that give the mate, the likeliest first.

    In `s_1_val_1` (Trim Galore) both digits do, unless `s_1` is the sample.
    """
    marked = [_digit(word, start) for word, start in words if _MARKED_MATE.fullmatch(word)]
    plain = [_digit(word, start) for word, start in words if _PLAIN_MATE.fullmatch(word)]
    trimmed = [
        _digit(word, start)
        for (before, _), (word, start) in pairwise(words)
        if before.lower() == "val" and word in ("1", "2")
    ]
    if not trimmed:
        candidates = marked or plain
        return [[candidates[-1][0]]] if candidates else []
    position, mate = trimmed[-1]
    earlier = [each for each in (marked or plain) if each[0] < position and each[1] == mate]
    return [*([position, index] for index, _ in earlier[-1:]), [position]]


def _digit(word: str, start: int) -> tuple[int, str]:
    """Return the position in the name of a word's 1 or 2, and the digit."""
    offset = next(index for index, letter in enumerate(word) if letter in "12")
    return start + offset, word[offset]


def _without_suffix(name: str) -> str:
    return _UNFINISHED.sub("", _COMPRESSED.sub("", _FASTQ.sub("", name)))


def _check_inside(folder: Path, path: Path, field: str | None) -> None:
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InvalidRequest(
            f"{_relative(folder, path)} in {folder.name!r} is a link that leaves the folder; "
            "copy the file into it",
            field=field,
        )


def _check_sample(folder: Path, samples: Mapping[str, Path], field: str | None) -> None:
    if len(samples) > 1:
        (name, path), (other_name, other), *_ = samples.items()
        raise InvalidRequest(
            f"{_relative(folder, path)} and {_relative(folder, other)} in {folder.name!r} "
            f"are of the samples {name!r} and {other_name!r}; give each sample a folder and a run "
            "of its own",
            field=field,
        )


def _check_pair(folder: Path, mates: Mapping[str, Path], field: str | None) -> None:
    if len(mates) == 1:
        (present,) = mates
        missing = "21"[int(present) - 1]
        raise InvalidRequest(
            f"{_relative(folder, mates[present])} in {folder.name!r} has no mate; add "
            f"the file with {missing} instead of {present}, or take this one away",
            field=field,
        )


def _relative(folder: Path, path: Path) -> str:
    return repr(str(path.relative_to(folder)))


def _ignored_reads(folder: Path) -> str:
    """Return why `is_reads` rejects a FASTQ in the folder, as the end of a message."""
    for path in sorted(folder.rglob("*")):
        words = _WORD.findall(_without_suffix(path.name)) if _FASTQ.search(path.name) else []
        for word in filter(_NO_PAIR.fullmatch, words):
            return (
                f"; {_relative(folder, path)} is ignored, because the word {word!r} marks reads "
                "without a mate or of no sample: rename it, or name the two files"
            )
    return ""


def _read_files(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if is_reads(name):
                yield Path(parent, name)


def _natural_order(folder: Path, path: Path) -> list[list[tuple[bool, int, str]]]:
    """Sort key: L2 before L10, and the files of a folder by name."""
    return [
        [
            (piece.isdecimal(), int(piece) if piece.isdecimal() else 0, piece)
            for piece in re.split(r"([0-9]+)", part)
            if piece
        ]
        for part in path.relative_to(folder).parts
    ]


# Buckets and keys.

SCHEME = "oss://"
BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_KEY_LIMIT = 1023
_NAME_LIMIT = 255
_NAMES_SHOWN = 10
_NAMES_READ = 1000


class Buckets:
    """Maps oss:// locations to paths below `root`.

    `field` is the request parameter with the location; every error carries it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        """Return the sorted bucket names, without folders that have an invalid bucket name."""
        if not self._root.is_dir():
            return []
        return sorted(
            entry.name
            for entry in self._root.iterdir()
            if BUCKET_NAME.fullmatch(entry.name) and entry.is_dir()
        )

    def locate(self, bucket: str, key: str, *, field: str | None = None) -> Path:
        """Return the path of a key, whether or not it exists.

        The path is inside its bucket even after all links are resolved. Raise BucketNotFound, and
        InvalidRequest for an invalid bucket name or key, a key outside the bucket, or one of the
        server's own files.
        """
        folder = self.folder(bucket, field=field)
        path = folder.joinpath(*check_key(key, field=field))
        resolved = _resolved_below(folder, path)
        if resolved is None:
            raise InvalidRequest(
                f"the key {_quoted(key)} is a link that leads out of the bucket {bucket!r}; "
                "copy the file into the bucket",
                field=field,
            )
        if is_reserved(key) or is_reserved(resolved) or self._is_reserved(folder, path):
            raise InvalidRequest(
                f"the key {_quoted(key)} is kept for the server's own files (.wesemu/ at a "
                "bucket's top, and names like .x.part); choose another name",
                field=field,
            )
        return path

    def existing(self, url: str, *, field: str | None = None) -> Path:
        """Return the existing file or folder at an `oss://` location.

        The key of a folder may end with `/`. Raise as `locate`, and ObjectNotFound.
        """
        bucket, key = parse(url, field=field)
        path = self.locate(bucket, key.removesuffix("/"), field=field)
        if not path.exists():
            raise ObjectNotFound(
                f"the bucket {bucket!r} has no {_quoted(key)}; {_suggestion(path)}", field=field
            )
        return path

    def existing_file(self, url: str, *, field: str | None = None) -> Path:
        """Return the existing file at an `oss://` location. Raise as `existing`."""
        path = self.existing(url, field=field)
        if not path.is_file():
            raise ObjectNotFound(f"{url} is a folder; name a file in it", field=field)
        return path

    def target(self, url: str, *, field: str | None = None) -> Path:
        """Return the path for a new output; its folders need not exist yet.

        Raise as `locate`, and InvalidRequest if the path is a folder or one of its parents a file.
        """
        bucket, key = parse(url, field=field)
        path = self.locate(bucket, key, field=field)
        if path.is_dir():
            raise InvalidRequest(f"{url} is a folder; name the file to write", field=field)
        folder = self._root / bucket
        for parent in path.relative_to(folder).parents:
            if (folder / parent).exists() and not (folder / parent).is_dir():
                raise InvalidRequest(
                    f"{url} cannot be written: {str(parent)!r} is a file, not a folder", field=field
                )
        return path

    def folder(self, bucket: str, *, field: str | None = None) -> Path:
        """Return the folder of a bucket. Raise BucketNameRefused, BucketNotFound."""
        if not BUCKET_NAME.fullmatch(bucket):
            raise BucketNameRefused(
                f"{_quoted(bucket)} is not a bucket name: 3 to 63 lower-case letters, digits and "
                "hyphens, with a letter or digit at both ends",
                field=field,
            )
        folder = self._root / bucket
        if not folder.is_dir():
            raise BucketNotFound(
                f"there is no bucket {bucket!r}; {_bucket_list(self.names())}; `wesemu bucket put "
                f"FILE oss://{bucket}/` creates it, and so does the folder 'buckets/{bucket}' in "
                "the data directory",
                field=field,
            )
        return folder

    def _is_reserved(self, folder: Path, path: Path) -> bool:
        """Return True if a bucket that is a link leads to the server's own files in another
        bucket.
        """
        if not folder.is_symlink():
            return False
        below = _resolved_below(self._root, path)
        return below is not None and is_reserved(below.partition("/")[2])


def parse(url: str, *, field: str | None = None) -> tuple[str, str]:
    """Return bucket and key of `oss://bucket/key`, without percent-decoding.

    Raise InvalidRequest for any other location.
    """
    bucket, slash, key = url.removeprefix(SCHEME).partition("/")
    if not url.startswith(SCHEME) or not slash or not key:
        raise InvalidRequest(
            f"{_quoted(url)} is not a location in a bucket; write oss://<bucket>/<key>", field=field
        )
    return bucket, key


def check_key(key: str, *, field: str | None = None) -> list[str]:
    """Return the path components of a key. Raise InvalidRequest for an invalid key."""
    parts = key.split("/")
    if any(unicodedata.category(letter).startswith("C") for letter in key):
        problem = "has a control character or a code point that is not a character"
    elif key.startswith(("/", "\\")):
        problem = (
            "is absolute; write the path from the bucket's top (`wesemu bucket put` sends a file "
            "of another folder to a bucket)"
        )
    elif "://" in key:
        problem = "is a URL; write the path in the bucket only"
    elif "" in parts:
        problem = "has an empty part; write single slashes between names and none at the end"
    elif ".." in parts or "." in parts:
        problem = "has '.' or '..'; write the path from the bucket's top"
    elif len(key.encode()) > _KEY_LIMIT:
        problem = f"is longer than {_KEY_LIMIT} bytes"
    elif any(len(part.encode()) > _NAME_LIMIT for part in parts):
        problem = f"has a name longer than {_NAME_LIMIT} bytes"
    else:
        return parts
    raise InvalidRequest(f"the key {_quoted(key)} {problem}", field=field)


def _resolved_below(folder: Path, path: Path) -> str | None:
    """Return the resolved path relative to `folder`, or None if it is outside."""
    try:
        try:
            real = path.resolve(strict=True)
        except OSError as error:
            if error.errno == errno.ELOOP:  # a non-strict resolve ignores it since Python 3.13
                return None
            real = path.resolve()
        return real.relative_to(folder.resolve()).as_posix()
    except (OSError, RuntimeError, ValueError):
        return None


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "…")


def _bucket_list(names: Sequence[str]) -> str:
    if not names:
        return "there are no buckets yet"
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"the buckets are {', '.join(names[:_NAMES_SHOWN])}{more}"


def _suggestion(path: Path) -> str:
    """Suggest similar names in the folder of a missing path."""
    if path.parent.is_file():
        return f"{path.parent.name!r} is a file, not a folder"
    if not path.parent.is_dir():
        return f"the folder {path.parent.name!r} is not there either"
    with os.scandir(path.parent) as entries:
        names = [entry.name for entry in islice(entries, _NAMES_READ)]
    close = get_close_matches(path.name, sorted(names), n=3)
    if close:
        return f"there is {' and '.join(repr(name) for name in close)}"
    return "upload it, or copy it into the bucket's folder"
