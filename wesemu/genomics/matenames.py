"""How files write which mate a read is, where bwa does not take it for that. Pure."""

import re

_ENDINGS = (
    (re.compile(rb"(.+?)([^A-Za-z0-9])(R|read|mate)?1", re.IGNORECASE), rb"2"),
    (re.compile(rb"(.+?)([^A-Za-z0-9])F()", re.IGNORECASE), rb"R"),
)


def mate_hint(first: bytes, second: bytes) -> str | None:
    """What to do about names that differ by the mate's number only, as `r7_1` and `r7_2`, `r7:1`
    and `r7:2` or `r7/R1` and `r7/R2`; None for other names."""
    for one, two in ((first, second), (second, first)):
        for ending, other in _ENDINGS:
            if (match := ending.fullmatch(one)) is None:
                continue
            start, separator, word = match[1], match[2], match[3] or b""
            if two.lower() == (start + separator + word + other).lower():
                ends = [name[len(start) :].decode("ascii", "replace") for name in (first, second)]
                return (
                    f"Names in {ends[0]} and {ends[1]} are not taken for mates: use /1 and /2, or "
                    "no ending."
                )
    return None
