"""Check whole blocks of plain FASTQ text, in half the time of checking each record.

Pairs accepted here need no other check. Anything unusual, valid or not, is left to the reader of
single records, which knows the message. No I/O.
"""

import re
from collections.abc import Sequence
from itertools import chain
from operator import eq
from typing import NamedTuple

LONGEST_NAME = 254  # SAM specification 1.4, QNAME
BASES = b"ACGTUNRYSWKMBDHVacgtunryswkmbdhv."
QUALITIES = {offset: bytes(range(offset, 127)) for offset in (33, 64)}
BELOW_PHRED64 = bytes(range(33, 59))

_LONGEST_HEADS = 512
"""Average bytes in the head and `+` lines of a read. Mappers keep comments in memory."""

_LINES = 4
_MATE_ENDS = {b"/1"}, {b"/2"}
_REFUSED_MATE_ENDS = (
    (rb"(.+?)([^A-Za-z0-9])(R|read|mate)?1", rb"2"),
    (rb"(.+?)([^A-Za-z0-9])F()", rb"R"),
)


class PlainBlock(NamedTuple):
    """Whole pairs: `texts` by file (one if interleaved), and `rests`, the text after them.

    `bases` counts both mates; `last` is the head line of the first mate of the last pair.
    """

    texts: list[bytes]
    rests: list[bytes]
    pairs: int
    bases: int
    last: bytes


class _Records(NamedTuple):
    heads: list[bytes]
    bases: list[bytes]
    separators: list[bytes]
    qualities: list[bytes]


def pair_name(head: bytes) -> bytes:
    """Return the name that both mates share, as bwa and samtools see it: the text up to the first
    blank, without /1 or /2 (any digit). `head` is the line after the `@`."""
    name = head.partition(b" ")[0]
    return name[:-2] if len(name) > 2 and name[-2:-1] == b"/" and name[-1:].isdigit() else name


def is_second_mate(head: bytes) -> bool:
    """Return whether the head line of a read says that it is a second mate: `r7/2` or `r7 2:N:…`.

    `head` is the line after the `@`.
    """
    name, _, comment = head.partition(b" ")
    return name.endswith(b"/2") or comment.startswith(b"2:")


def is_sam_name(name: bytes) -> bool:
    """Return whether SAM allows a name: its length, not `*` (no name), no `@` at the start."""
    return 0 < len(name) <= LONGEST_NAME and name != b"*" and name[:1] != b"@"


def mate_hint(first: bytes, second: bytes) -> str | None:
    """Return advice for names that differ by the mate's number only, such as `r7_1` and `r7_2`,
    `r7:1` and `r7:2` or `r7/R1` and `r7/R2`; None for other names."""
    for one, two in ((first, second), (second, first)):
        for ending, other in _REFUSED_MATE_ENDS:
            if (match := re.fullmatch(ending, one, re.IGNORECASE)) is None:
                continue
            start, separator, word = match[1], match[2], match[3] or b""
            if two.lower() == (start + separator + word + other).lower():
                ends = [name[len(start) :].decode("ascii", "replace") for name in (first, second)]
                return (
                    f"Names in {ends[0]} and {ends[1]} are not taken for mates: use /1 and /2, or "
                    "no ending."
                )
    return None


def plain_block(
    texts: Sequence[bytes],
    *,
    longest: int,
    shortest: int = 0,
    before: bytes = b"",
    start: bool = False,
    guess: bool = False,
) -> PlainBlock | None:
    """Return the whole pairs at the start of one interleaved text or two texts (Phred+33).

    Returns None unless all pairs are plain: four lines for each read, the same name for both mates
    (up to a blank, or followed by /1 and /2), different names for neighbouring pairs, known
    letters, one quality for each base, `shortest` to `longest` bases, no long comments. `before` is
    the name of the pair before. At the `start` of the files the mates must differ. With `guess` the
    qualities must show that they are Phred+33.
    """
    lines = [text.split(b"\n") for text in texts]
    # the last item is the beginning of an unfinished line
    pairs = min((len(these) - 1) // _LINES for these in lines)
    if len(texts) == 1:
        pairs //= 2
    each = _LINES * pairs * 2 // len(texts)
    files = [_Records(*(these[part:each:_LINES] for part in range(_LINES))) for these in lines]
    if not all(text.isascii() and b"\r" not in text for text in texts):
        return None
    mates = files
    if len(files) == 1:
        mates = [_Records(*(part[mate::2] for part in files[0])) for mate in range(2)]
    names = _common_names(*(records.heads for records in mates))
    if names is None or not all(map(_is_sound, files)):
        return None
    if any(map(eq, chain([b"@" + before], names), names)):
        return None
    lengths = [len(read) for records in files for read in records.bases]
    if max(lengths, default=0) > longest or min(lengths, default=shortest) < shortest:
        return None
    if start and mates[0].bases == mates[1].bases:
        return None
    if guess and not any(map(_shows_phred33, files)):
        return None
    rests = [b"\n".join(these[each:]) for these in lines]
    whole = [text[: len(text) - len(rest)] for text, rest in zip(texts, rests, strict=True)]
    bases = sum(lengths)
    if sum(map(len, whole)) > 2 * bases + _LONGEST_HEADS * len(lengths):
        return None
    return PlainBlock(whole, rests, pairs, bases, mates[0].heads[-1][1:] if pairs else b"")


def _common_names(first: list[bytes], second: list[bytes]) -> list[bytes] | None:
    """Return the pairs' names with the `@`; None unless both mates have the same valid names."""
    names, others = ([head.partition(b" ")[0] for head in heads] for heads in (first, second))
    if names != others:
        ends = {name[-2:] for name in names}, {name[-2:] for name in others}
        names, others = ([name[:-2] for name in these] for these in (names, others))
        if ends != _MATE_ENDS or names != others:
            return None
    joined = b"\n".join(names)
    if b"/" in joined and any(name[-2:-1] == b"/" for name in names):
        return None
    lines = b"\n%b\n" % joined
    marked = lines.count(b"\n@") == len(names)
    marked = marked and b"\n@@" not in lines and b"\n@*\n" not in lines
    sized = all(1 < length <= LONGEST_NAME + 1 for length in {len(name) for name in names})
    if marked and sized and joined.replace(b"\n", b"").decode("ascii").isprintable():
        return names
    return None


def _is_sound(records: _Records) -> bool:
    """Return whether letters, separators and numbers of qualities are valid."""
    return (
        (b"\n" + b"\n".join(records.separators)).count(b"\n+") == len(records.separators)
        and list(map(len, records.bases)) == list(map(len, records.qualities))
        and not b"".join(records.bases).translate(None, BASES)
        and not b"".join(records.qualities).translate(None, QUALITIES[33])
    )


def _shows_phred33(records: _Records) -> bool:
    qualities = b"".join(records.qualities)
    return len(qualities.translate(None, BELOW_PHRED64)) < len(qualities)
