"""gzip files, read with isal where it has a wheel: three times as fast as zlib."""

import gzip
import zlib
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

GZIP_FAULTS: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error)
"""What reading damaged or cut gzip data raises."""

_opener: Any = gzip.open
try:
    from isal import igzip, isal_zlib
except ImportError:
    pass
else:
    _opener = igzip.open
    GZIP_FAULTS = (*GZIP_FAULTS, cast(type[Exception], isal_zlib.IsalError))


def open_gzip(file: "Path | BufferedReader[Any]") -> "BufferedReader[Any]":
    """Decompress a file, of one member or many; the checksums are verified."""
    return BufferedReader(_opener(file, "rb"), 1 << 17)
