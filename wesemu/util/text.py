"""Text helpers: reasons in the output of tools, plain error messages, whole numbers. Pure."""

import errno
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from wesemu.errors import InvalidRequest

# Output of tools.

_ERROR = re.compile(r"\[E::")
# htslib prints it before it tries something else
_HARMLESS = re.compile(r"\[E::idx_find_and_load\]")
_NO_REASON = re.compile(
    r"\[[WMID]::"  # htslib and bwa: warnings, messages, information, debugging
    r"|\[main\] (?:Version|CMD|Real time):"
    r"|\[(?:bwa_index|bwt_gen|BWTInc\w*)\] "  # progress of bwa index
    r"|\[bam_sort_core\] merging "
    r"|\S*\s*\b(?:WARN|WARNING|INFO|DEBUG)\b"  # GATK, Parabricks, Python's logging
)


def failure_reason(text: str) -> str:
    """Return the line with the reason of a failure, or "".

    htslib prints the cause first ([E::…]) and its consequences after it; other tools print it in
    the last line. Warnings and progress messages are never the reason.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    errors = [line for line in errors if not _HARMLESS.match(line)] or errors
    if errors:
        return errors[0]
    return next((line for line in reversed(lines) if not _NO_REASON.match(line)), "")


def without_paths(text: str, folder: Path) -> str:
    """Return the text with paths below `folder` shortened to file names."""
    return re.sub(re.escape(f"{folder}/") + r"(?:[^\s/'\":,;]+/)*", "", text)


# Plain messages for errors of the system, the network, JSON and pydantic.

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "it does not exist",
    errno.ENOTDIR: "a part of its path is not a folder",
    errno.EISDIR: "it is a folder",
    errno.EEXIST: "it exists already",
    errno.ENOTEMPTY: "the folder is not empty",
    errno.ELOOP: "it is a link, or links form a circle",
    errno.ENAMETOOLONG: "its name is too long",
    errno.EMFILE: "too many files are open in this process; raise the limit 'ulimit -n'",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENOMEM: "there is not enough memory",
    errno.EIO: "the disk reports an error",
    errno.EFBIG: "the file is too large for the file system, or for the limit 'ulimit -f'",
    errno.ETXTBSY: "the file is being executed",
    errno.EXDEV: "it is on another file system",
    errno.ENOEXEC: "it is not a program that this machine can run",
    errno.EAGAIN: "there are too many processes; raise the limit 'ulimit -u'",
    errno.ECONNREFUSED: "the connection is refused",
    errno.ECONNRESET: "the connection broke off",
    errno.EPIPE: "the connection broke off",
    errno.ETIMEDOUT: "there is no answer in time",
    errno.EHOSTUNREACH: "the machine cannot be reached",
    errno.ENETUNREACH: "the network cannot be reached",
    errno.EADDRINUSE: "the address is in use",
    errno.EADDRNOTAVAIL: "the address is not one of this machine",
    errno.EAFNOSUPPORT: "the kind of address is not supported",
}
_ERRNO = re.compile(r"\[Errno -?\d+\] ")
_UNION_MEMBER = re.compile(r"[\[\](]|^(constrained-)?(str|int|float|bool)$")
_VALUE_LIMIT = 80
_FIELD_LIMIT = 200


class ValidationFailed(Protocol):
    """pydantic.ValidationError, without its import."""

    def errors(self) -> Sequence[Mapping[str, object]]: ...


def os_reason(error: OSError) -> str:
    """Return the reason of a system error as a clause, without the name of the file."""
    if error.errno in _REASONS:
        return _REASONS[error.errno]
    if error.errno is not None and error.errno in errno.errorcode:
        text = os.strerror(error.errno).lower()
        return f"{text} ({errno.errorcode[error.errno]})"
    return _ERRNO.sub("", str(error)) or "the system gives no reason"


def os_sentence(error: OSError) -> str:
    """As `os_reason`, preceded by the file if the error has one."""
    name = error.filename
    if name is None or isinstance(name, int):
        return os_reason(error)
    return f"{os.fsdecode(name)}: {os_reason(error)}"


FULL_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT)
NO_FILES_ERRORS = (errno.EMFILE, errno.ENFILE)


@contextmanager
def name_full_disk(path: Path) -> Iterator[None]:
    """Name `path` in an OSError of a full disk: a failed write names no file, a copy its source.

    The same for a disk that fails, and for a file that is too large.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (*FULL_DISK_ERRORS, errno.EFBIG, errno.EIO):
            error.filename, error.filename2 = str(path), None
        raise


def network_reason(error: BaseException) -> str:
    """Return the reason of a network error as a clause.

    aiohttp's errors are recognised by their class names, to avoid a slow import.
    """
    cause = getattr(error, "os_error", None)
    names = {kind.__name__ for kind in type(error).__mro__}
    if "ClientConnectorDNSError" in names:
        return "its host has no address"
    if "ClientSSLError" in names or "SSLError" in names:
        return "there is no secure connection (its certificate is not valid, or it speaks no TLS)"
    if isinstance(cause, OSError) and cause.errno is not None:
        return os_reason(cause)
    if isinstance(error, TimeoutError):
        return "there is no answer in time"
    if names & {"ServerDisconnectedError", "ClientPayloadError", "ClientOSError"}:
        return "the connection broke off"
    if names & {"InvalidURL", "InvalidUrlClientError"}:
        return "it is not a URL"
    if "ClientError" in names:
        return "the answer is not HTTP that can be read"
    if isinstance(error, OSError):
        return os_reason(error)
    return str(error) or type(error).__name__


def is_host(text: str) -> bool:
    """Whether a text can be an address or a name of DNS: `getaddrinfo` raises UnicodeError for
    others."""
    try:
        return bool(text.encode("idna")) and text.isprintable() and " " not in text
    except UnicodeError:
        return False


def without_repeats(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    """Return the pairs of a JSON object, as its `object_pairs_hook`. Raises InvalidRequest for a
    name that is given twice: parsers of JSON would silently keep one value."""
    members: dict[str, object] = {}
    for name, value in pairs:
        if name in members:
            raise InvalidRequest("it is given twice; name it once", field=name[:80])
        members[name] = value
    return members


def json_reason(error: ValueError | RecursionError) -> str:
    """Return why a text is not JSON, such as "not JSON from line 3, column 7 on"."""
    match error:
        case json.JSONDecodeError() if error.doc.startswith("\ufeff"):
            return "not JSON: it begins with a byte order mark"
        case json.JSONDecodeError():
            return f"not JSON from line {error.lineno}, column {error.colno} on"
        case UnicodeError():
            return "not UTF-8"
        case RecursionError():
            return "nested too deeply"
        case _ if "string conversion" in str(error):
            return "JSON with a number that is too long"
        case _:
            return "not JSON"


def validation_reason(error: ValidationFailed) -> tuple[str, str]:
    """Return the first wrong field as a dotted path ("" for the whole), and what is wrong."""
    return next(iter(validation_reasons(error).items()))


def validation_reasons(error: ValidationFailed) -> dict[str, str]:
    """Return what is wrong with each wrong field, by the field's dotted path."""
    reasons: dict[str, dict[str, None]] = {}
    for each in error.errors():
        reasons.setdefault(_field(each), {})[_reason(each)] = None
    return {field[:_FIELD_LIMIT]: _joined(list(each)) for field, each in reasons.items()}


def _joined(reasons: Sequence[str]) -> str:
    """Join the errors of one field: a value of a union type has one for each member."""
    kinds = [reason.partition(", not ")[0].removeprefix("must be ") for reason in reasons]
    if len(kinds) > 1 and all(reason.startswith("must be ") for reason in reasons):
        return f"must be {' or '.join(kinds)}"
    return reasons[0]


def _field(error: Mapping[str, object]) -> str:
    """Return the dotted path without pydantic's names for members of a union."""
    location = error.get("loc")
    parts = map(str, location) if isinstance(location, tuple) else ()
    return ".".join(part for part in parts if part and not _UNION_MEMBER.search(part))


def _reason(error: Mapping[str, object]) -> str:
    kind = str(error.get("type", ""))
    context = error.get("ctx")
    limits = context if isinstance(context, dict) else {}
    if kind in ("value_error", "assertion_error"):
        return str(limits.get("error", "")) or "cannot be used"
    template = _SENTENCES.get(kind)
    if template is None:
        template = next((text for end, text in _ENDINGS if kind.endswith(end)), "cannot be used")
    try:
        reason = template.format(**limits)
    except (KeyError, IndexError):
        reason = "cannot be used"
    return reason if kind in _WITHOUT_VALUE else f"{reason}, not {_shorten(error.get('input'))}"


_SENTENCES = {
    "missing": "is missing",
    "extra_forbidden": "is not known; leave it out or correct its name",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "is too large a number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "decimal_type": "must be a number",
    "decimal_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be a string",
    "string_pattern_mismatch": "must have the form {pattern}",
    "string_too_short": "must have {min_length} characters or more",
    "string_too_long": "must have {max_length} characters or fewer",
    "too_short": "must have {min_length} or more entries",
    "too_long": "must have {max_length} or fewer entries",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "path_type": "must be a path",
    "ip_v4_network": "must be an IPv4 network such as 10.0.0.0/8",
    "ip_v6_network": "must be an IPv6 network such as fd00::/8",
    "is_instance_of": "has the wrong type",
}
_ENDINGS = (
    ("_type", "has the wrong type"),
    ("_parsing", "cannot be read"),
    ("network", "must be a network such as 10.0.0.0/8"),
)
_WITHOUT_VALUE = frozenset(
    {"missing", "extra_forbidden", "too_short", "too_long", "string_too_long", "int_parsing_size"}
)


def _shorten(value: object) -> str:
    """Return a value as the user wrote it, shortened; for an object or a list only its type."""
    match value:
        case dict():
            return "an object"
        case list() | tuple():
            return "a list"
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str() if not value:
            return "an empty string"
    try:
        text = repr(value)
    except ValueError:  # a number of too many digits
        return "a very long number"
    return text if len(text) <= _VALUE_LIMIT else f"{text[:_VALUE_LIMIT]}…"


def whole_number(text: str, *, most_digits: int = 9) -> int | None:
    """Parse plain decimal digits; None for anything else and for more than `most_digits`."""
    digits = text.lstrip("0") or "0"
    if not text.isascii() or not text.isdecimal() or len(digits) > most_digits:
        return None
    return int(digits)
