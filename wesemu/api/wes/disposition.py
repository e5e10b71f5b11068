"""Content-Disposition of a form's part (RFC 7578 4.2, RFC 6266, RFC 8187), names kept whole."""

import re
from urllib.parse import unquote

from wesemu.errors import InvalidRequest

_PARAMETER = re.compile(
    r"""\s*;\s*(?:(?P<key>[^\s=;"]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s;"]*)))?"""
)


def parse_disposition(header: str) -> dict[str, str]:
    """The parameters in any order, `filename*` folded into `filename`.

    Percent signs are decoded in file names, since clients write "/" as "%2F". Raises
    InvalidRequest for anything but well-formed form-data.
    """
    kind, _, _ = header.partition(";")
    if kind.strip().lower() != "form-data":
        raise _malformed(header)
    parameters: dict[str, str] = {}
    position = len(kind)
    while position < len(header.rstrip()):
        found = _PARAMETER.match(header, position)
        if found is None:
            raise _malformed(header)
        position = found.end()
        if (key := (found["key"] or "").lower()) in parameters:
            raise _malformed(header)
        if key:
            parameters[key] = _value(found)
    if "filename*" in parameters:
        parameters["filename"] = _extended(parameters.pop("filename*"), header)
    elif "filename" in parameters:
        parameters["filename"] = _decode(parameters["filename"], "utf-8", header)
    return parameters


def _value(found: re.Match[str]) -> str:
    """Only quotes and backslashes are unescaped: old browsers send "C:\\name" as it is."""
    if found["quoted"] is not None:
        return re.sub(r'\\(["\\])', r"\1", found["quoted"])
    return found["bare"] or ""


def _extended(value: str, header: str) -> str:
    charset, _, rest = value.partition("'")
    _, quote, encoded = rest.partition("'")
    if not quote or charset.lower() not in ("utf-8", "iso-8859-1"):
        raise _malformed(header)
    return _decode(encoded, charset, header)


def _decode(value: str, charset: str, header: str) -> str:
    try:
        return unquote(value, charset, errors="strict")
    except UnicodeDecodeError as error:
        raise _malformed(header) from error


def _malformed(header: str) -> InvalidRequest:
    return InvalidRequest(f"the Content-Disposition {header[:80]!r} is not well-formed form-data")
