"""What identifies the content of an input, so that a replaced one is noticed whatever its times."""

import hashlib
from pathlib import Path

WHOLE_UP_TO = 4 << 20
"""Bytes up to which the whole content counts."""


def fingerprint(path: str | Path) -> str:
    """SHA-256 of a small file; of a larger one its size, its time of change and its first and last
    mebibyte. "missing" for what is no file.

    Equal for equal small files whatever their times, as Snakemake's own checksums are; a large
    file that was replaced with its size and time kept shows only at its ends.
    """
    file = Path(path)
    if not file.is_file():
        return "missing"
    status = file.stat()
    digest = hashlib.sha256()
    with file.open("rb") as content:
        if status.st_size <= WHOLE_UP_TO:
            digest.update(content.read())
            return digest.hexdigest()
        digest.update(content.read(1 << 20))
        content.seek(-(1 << 20), 2)
        digest.update(content.read())
    return f"{status.st_size} {status.st_mtime_ns} {digest.hexdigest()}"
