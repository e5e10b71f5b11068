"""CRC-64 as OSS tells it: ECMA-182, reflected, all ones before and after; .xz files have it too.

Python has no function for it, but its `lzma` module comes with liblzma, whose `lzma_crc64` does
some GB/s and lets other threads run meanwhile.
"""

import _lzma
import ctypes
import ctypes.util
from collections.abc import Callable, Iterable, Iterator

Crc64 = Callable[[bytes, int], int]
"""The checksum of all bytes so far, from the next ones and the checksum of those before (0)."""

_CHECK = (b"123456789", 0x995DC9BBDF1939FA)  # the parameter set's published check value
_POLYNOMIAL = 0xC96C5795D7870F42  # reflected: the highest bit is the constant term
_ONE = 1 << 63
_X = 1 << 62


def find_crc64() -> Crc64 | None:
    """liblzma's function; None where no liblzma can be reached."""
    for name in _libraries():
        try:
            function = ctypes.CDLL(name).lzma_crc64
        except (OSError, AttributeError):
            continue
        function.restype = ctypes.c_uint64
        function.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]

        def crc64(data: bytes, crc: int, call: Callable[..., int] = function) -> int:
            return call(data, len(data), crc)

        if crc64(_CHECK[0], 0) == _CHECK[1]:
            return crc64
    return None


def join(pieces: Iterable[tuple[int, int]]) -> int:
    """The checksum of pieces one after the other, from each one's checksum and size in bytes."""
    joined = 0
    shifts: dict[int, int] = {}
    for crc, size in pieces:
        if size not in shifts:
            shifts[size] = _power_of_x(8 * size)
        joined = _multiply(shifts[size], joined) ^ crc
    return joined


def _libraries() -> Iterator[str | None]:
    """Searching a module finds what it is linked with; None is the program itself."""
    yield getattr(_lzma, "__file__", None)
    if (library := ctypes.util.find_library("lzma")) is not None:
        yield library


def _multiply(a: int, b: int) -> int:
    """a * b modulo the polynomial, over GF(2)."""
    product = 0
    for place in range(63, -1, -1):
        if a >> place & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


def _power_of_x(exponent: int) -> int:
    power, square = _ONE, _X
    while exponent:
        if exponent & 1:
            power = _multiply(power, square)
        square = _multiply(square, square)
        exponent >>= 1
    return power
