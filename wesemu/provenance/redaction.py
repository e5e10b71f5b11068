"""Removes credentials from URLs, texts and JSON values.

Rules match the parameter names of the usual services and values that look like secrets, so too much
is removed rather than too little. Paths of URLs stay.
"""

import re
from collections import Counter
from urllib.parse import unquote

from wesemu.runs.model import JsonObject, JsonValue

REDACTED = "REDACTED"
"""Replaces a credential."""

_URL = re.compile(r"(?::(?://|\\/\\/))(?P<authority>[^\s\"'<>`/\\?#]*)(?P<rest>[^\s\"'<>`]*)")
_QUERY = re.compile(r"(?P<path>[^?#]*)(?P<query>.*)", re.DOTALL)
_PARAMETER = re.compile(
    # JSON and HTML escape `&`, `=`, `+` and `/`; other backslashes belong to the text around.
    r"(?P<mark>[?&#;]|\\u0026)(?P<name>(?:(?!\\u0026|\\u003d)[^=&;?#])+)(?P<is>=|\\u003d)"
    r"(?P<value>(?:\\/|\\u002[bf]|\\u003d|[^&;#\\])*)",
    re.IGNORECASE,
)
_SECRET_PARAMETER = re.compile(
    r"(amp)?x(amz|oss|goog|cos|obs|tos|ms|bce).*|.*(signature|token|secret|passw|passphrase|pwd"
    r"|credential|auth|apikey|accesskey|accessid|privatekey|keyid|keypairid|session|jwt|bearer"
    r"|ticket|hmac|sig|sas)|(amp)?(key|rlkey|policy|sign|code|pass|ak|sk)"
)
_HARMLESS_PARAMETER = re.compile(
    r"(amp)?(versionid|generation|sha1|sha256|sha512|md5|etag|checksum)"
)
_SECRET_LOOKING = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9_+/=.~-]{24,}")
_FILE_NAME = re.compile(r".*\.[A-Za-z0-9]{1,8}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_MAX_NESTING = 4
"""URLs in parameters of URLs are searched to this depth; deeper ones count as secrets."""

# Each repetition is bounded or anchored, so the time stays linear: texts may have megabytes.
_QUOTE = r"\\{0,8}[\"']"
_PLAIN = rf"(?:(?!{_QUOTE})[^\s&])+"
_VARIABLE = (
    r"(?:secret|token|password|passwd|passphrase|(?:api|access|private)[_-]?key)s?"
    r"(?:[_-]?(?:key|id|secret))?"
    r"(?:[_-](?!(?:file|path|dir|url|name|type|limit|length|count|size|stdin)\b)[a-z0-9]{1,20}){0,4}"
)


def _up_to(quote: str) -> str:
    """Match everything up to the quote in group `quote`, or to the end."""
    return rf"(?:(?!(?P={quote}))(?:\\.|.))*"


_HEADER_NAME = (
    r"(?<![\w-])[\w-]{0,60}?"
    r"(?:authorization|cookie|[_-]token|(?:api|auth|access|subscription)[_-]?key)"
)
_HEADER = re.compile(
    rf"(?P<quoted>(?P<quote>{_QUOTE})(?:{_HEADER_NAME}|token)[ \t]*:[ \t]*){_up_to('quote')}"
    rf"|(?P<item>{_HEADER_NAME}(?:{_QUOTE})?[ \t]*:[ \t]*(?P<own>{_QUOTE})){_up_to('own')}"
    rf"|(?P<line>{_HEADER_NAME}[ \t]*:[ \t]*)(?=\S)[^\r\n]+",
    re.IGNORECASE | re.DOTALL,
)
_ASSIGNED = re.compile(
    rf"(?P<name>(?P<option>(?<![\w-])--[\w-]{{0,60}}?)?{_VARIABLE}"
    r"(?:=(?!=)|(?(option)[ \t]+(?!-)|(?!))))"
    # Counts of tokens, redacted values and shell variables are not secrets.
    rf"(?!(?<=tokens[ =])\d+\b|{REDACTED}\b|\"?\$[\w{{(])"
    rf"(?:(?P<quote>{_QUOTE})(?!(?P=quote)){_up_to('quote')}|{_PLAIN})",
    re.IGNORECASE | re.DOTALL,
)
_USER = re.compile(
    rf"(?P<name>(?<!\S)(?:-u[ \t]*|--(?:proxy-)?user[ \t=]+)(?P<quote>{_QUOTE})?[\w.@+-]{{1,60}}:)"
    # Not `docker -u 1000:1000` and not regions of a genome.
    rf"(?!\d+(?:-\d+)?(?:[\s\"']|\Z))(?(quote){_up_to('quote')}|{_PLAIN})",
    re.DOTALL,
)
_SECRET_KEY = re.compile(
    r".*(secret|token|password|passwd|passphrase|apikey|accesskey|accesskeyid|accesskeysecret"
    r"|secretkey|privatekey|credential|authorization|cookie"
    # Anyone with such a URL can call it.
    r"|callbackurl|webhookurl|webhook)s?"
)
_NOT_ALPHANUMERIC = re.compile(r"[^a-z0-9]")


def redact_urls(text: str) -> str:
    """Redact the credentials in all URLs of a text: user, password, signatures, secrets."""
    return _redact_urls(text, 0)


def redact_text(text: str) -> str:
    """Redact URLs, and credentials in headers, options and assignments of shell commands."""
    text = _HEADER.sub(rf"\g<quoted>\g<item>\g<line>{REDACTED}", redact_urls(text))
    text = _ASSIGNED.sub(_redact_assignment, text)
    return _USER.sub(rf"\g<name>{REDACTED}", text)


def redact(value: JsonValue) -> JsonValue:
    """Redact all texts in a JSON value, and values whose key names a secret.

    Booleans, null and empty values stay. Lists keep their lengths, objects the order of their
    members.
    """
    match value:
        case str():
            return redact_text(value)
        case list():
            return [redact(item) for item in value]
        case dict():
            return _redact_object(value)
        case _:
            return value


def _redact_object(values: JsonObject) -> JsonObject:
    """Redact names and values, in their order. Names that would become the same are numbered."""
    redacted: JsonObject = {}
    numbers: Counter[str] = Counter()
    for key, item in values.items():
        name = plain = redact_text(key)
        while name in redacted:
            numbers[plain] += 1
            name = f"{plain}-{numbers[plain] + 1}"
        redacted[name] = _redact_item(key, item)
    return redacted


def _redact_item(key: str, value: JsonValue) -> JsonValue:
    name = _normalized(key)
    if not value or isinstance(value, bool) or not _SECRET_KEY.fullmatch(name):
        return redact(value)
    is_count = name.endswith("tokens") and str(value).isdecimal()
    return value if is_count else REDACTED


def _redact_assignment(match: re.Match[str]) -> str:
    return f"{match['name']}{match['quote'] or ''}{REDACTED}"


def _redact_urls(text: str, depth: int) -> str:
    return _URL.sub(lambda match: _redact_url(match, depth), text)


def _redact_url(match: re.Match[str], depth: int) -> str:
    whole, authority = match[0], match["authority"]
    prefix = whole[: match.start("authority") - match.start()]
    user, at, host = authority.rpartition("@")
    parts = _QUERY.fullmatch(match["rest"])
    assert parts is not None
    query = _PARAMETER.sub(lambda match: _redact_parameter(match, depth), parts["query"])
    return f"{prefix}{REDACTED if user else ''}{at}{host}{parts['path']}{query}"


def _redact_parameter(match: re.Match[str], depth: int) -> str:
    name = _normalized(unquote(match["name"]))
    value = unquote(match["value"].replace("\\u00", "%").replace("\\/", "/"))
    if not value or not (_SECRET_PARAMETER.fullmatch(name) or _is_secret(name, value, depth)):
        return match[0]
    return f"{match['mark']}{match['name']}{match['is']}{REDACTED}"


def _is_secret(name: str, value: str, depth: int) -> bool:
    """Return True if the value looks like a secret or has a URL with one."""
    if _URL.search(value) and (depth == _MAX_NESTING or _redact_urls(value, depth + 1) != value):
        return True
    is_secret_looking = _SECRET_LOOKING.fullmatch(value)
    is_known = (
        _FILE_NAME.fullmatch(value) or _UUID.fullmatch(value) or _HARMLESS_PARAMETER.fullmatch(name)
    )
    return bool(is_secret_looking) and not is_known


def _normalized(name: str) -> str:
    return _NOT_ALPHANUMERIC.sub("", name.casefold())
