"""Whole numbers that callers write."""

import errno
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

# What tools print, for people: the line that says why a tool failed, and no paths of a server.
# Pure.


_ERROR = re.compile(r"\[E::")
# printed by htslib on the way to another try
_HARMLESS = re.compile(r"\[E::idx_find_and_load\]")
_NO_REASON = re.compile(
    r"\[[WMID]::"  # htslib and bwa: warnings, messages, information, debugging
    r"|\[main\] (?:Version|CMD|Real time):"
    r"|\[(?:bwa_index|bwt_gen|BWTInc\w*)\] "  # progress of bwa index
    r"|\[bam_sort_core\] merging "
    r"|\S*\s*\b(?:WARN|WARNING|INFO|DEBUG)\b"  # GATK, Parabricks, Python's logging
)


def failure_reason(text: str) -> str:
    """The line that tells the reason of a failure, "" if no line does.

    htslib says first what is wrong ([E::…]), and then what it could not do for that reason; of
    other tools it is the last line. Warnings and progress are never a reason.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    errors = [line for line in errors if not _HARMLESS.match(line)] or errors
    if errors:
        return errors[0]
    return next((line for line in reversed(lines) if not _NO_REASON.match(line)), "")


def without_paths(text: str, folder: Path) -> str:
    """The text with the names of files below `folder` in the place of their paths."""
    return re.sub(re.escape(f"{folder}/") + r"(?:[^\s/'\":,;]+/)*", "", text)


# Plain words for errors that come from elsewhere: the system, JSON, pydantic.


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
    errno.ELOOP: "it is a link, or links lead round in a circle",
    errno.ENAMETOOLONG: "its name is too long",
    errno.EMFILE: "too many files are open in this process",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENOMEM: "there is not enough memory",
    errno.EIO: "the disk reports an error",
    errno.EFBIG: "the file is too large for the file system",
    errno.ETXTBSY: "the file is being executed",
    errno.EXDEV: "it is on another file system",
    errno.ENOEXEC: "it is not a program that this machine can run",
    errno.EAGAIN: "there are too many processes",
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
_SHOWN = 80
_PLACE_LIMIT = 200


class ValidationFailed(Protocol):
    """pydantic.ValidationError, without its import."""

    def errors(self) -> Sequence[Mapping[str, object]]: ...


def os_reason(error: OSError) -> str:
    """Why the system refused something, as half a sentence without the file's name."""
    if error.errno in _REASONS:
        return _REASONS[error.errno]
    if error.errno is not None and error.errno in errno.errorcode:
        text = os.strerror(error.errno).lower()
        return f"{text} ({errno.errorcode[error.errno]})"
    return _ERRNO.sub("", str(error)) or "the system gives no reason"


def os_sentence(error: OSError) -> str:
    """As `os_reason`, with the file in front where the error names one."""
    name = error.filename
    if name is None or isinstance(name, int):
        return os_reason(error)
    return f"{os.fsdecode(name)}: {os_reason(error)}"


def network_reason(error: BaseException) -> str:
    """Why something could not be fetched or sent, also for aiohttp's errors, which are told by
    their names: this module imports little."""
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


def json_reason(error: ValueError | RecursionError) -> str:
    """Where a text stops to be JSON, as "not JSON from line 3, column 7 on"."""
    match error:
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
    """The first field that is wrong, as a dotted path ("" for the whole), and what is wrong."""
    faults = error.errors()
    field = _field(faults[0])
    # of a value that may be one of several things, each of them has a fault of its own
    reasons = dict.fromkeys(_reason(fault) for fault in faults if _field(fault) == field)
    told = [reason.partition(", not ")[0].removeprefix("must be ") for reason in reasons]
    if len(told) > 1 and all(reason.startswith("must be ") for reason in reasons):
        return field[:_PLACE_LIMIT], f"must be {' or '.join(told)}"
    return field[:_PLACE_LIMIT], next(iter(reasons))


def _field(fault: Mapping[str, object]) -> str:
    """The dotted path, without what pydantic calls the members of a union."""
    location = fault.get("loc")
    parts = map(str, location) if isinstance(location, tuple) else ()
    return ".".join(part for part in parts if not _UNION_MEMBER.search(part))


def _reason(fault: Mapping[str, object]) -> str:
    kind = str(fault.get("type", ""))
    context = fault.get("ctx")
    limits = context if isinstance(context, dict) else {}
    if kind in ("value_error", "assertion_error"):
        return str(limits.get("error", "")) or "cannot be used"
    template = _SENTENCES.get(kind)
    if template is None:
        template = next((text for end, text in _ENDINGS if kind.endswith(end)), "cannot be used")
    try:
        told = template.format(**limits)
    except (KeyError, IndexError):
        told = "cannot be used"
    return told if kind in _WITHOUT_VALUE else f"{told}, not {_shown(fault.get('input'))}"


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


def _shown(value: object) -> str:
    """A value as the user wrote it, bounded; of an object or a list only what it is."""
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
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def whole_number(text: str, *, most_digits: int = 9) -> int | None:
    """The number that plain decimal digits say; None for anything else, and for longer ones."""
    digits = text.lstrip("0") or "0"
    if not text.isascii() or not text.isdecimal() or len(digits) > most_digits:
        return None
    return int(digits)
