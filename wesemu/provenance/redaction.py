"""Credentials struck out of what is handed on.

What a credential is called is known of the usual services only, so that what merely looks like one
goes, too: rather too much is struck out than too little. Paths of URLs are left as they are.
"""

import re
from urllib.parse import unquote

from wesemu.runs.model import JsonValue

STRUCK = "REDACTED"
"""Stands where a credential stood."""

_URL = re.compile(r"(?::(?://|\\/\\/))(?P<authority>[^\s\"'<>`/\\?#]*)(?P<rest>[^\s\"'<>`]*)")
_QUERY = re.compile(r"(?P<path>[^?#]*)(?P<query>.*)", re.DOTALL)
_PARAMETER = re.compile(
    # also as JSON and HTML write `&`, `=`, `+` and `/`; other backslashes are of the text around
    r"(?P<mark>[?&#;]|\\u0026)(?P<name>(?:(?!\\u0026|\\u003d)[^=&;?#])+)(?P<is>=|\\u003d)"
    r"(?P<value>(?:\\/|\\u002[bf]|\\u003d|[^&;#\\])*)",
    re.IGNORECASE,
)
_SIGNING = re.compile(
    r"(amp)?x(amz|oss|goog|cos|obs|tos|ms|bce).*|.*(signature|token|secret|passw|passphrase|pwd"
    r"|credential|auth|apikey|accesskey|accessid|privatekey|keyid|keypairid|session|jwt|bearer"
    r"|ticket|hmac|sig|sas)|(amp)?(key|rlkey|policy|sign|code|pass|ak|sk)"
)
_HARMLESS = re.compile(r"(amp)?(versionid|generation|sha1|sha256|sha512|md5|etag|checksum)")
_SECRET_LOOKING = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9_+/=.~-]{24,}")
_FILE_NAME = re.compile(r".*\.[A-Za-z0-9]{1,8}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_NESTED = 4
"""URLs in parameters of URLs are looked through so deep; what lies deeper is a secret."""

# All that repeats is bounded, or begins where it cannot begin again: texts may be megabytes.
_QUOTE = r"\\{0,8}[\"']"
_PLAIN = rf"(?:(?!{_QUOTE})[^\s&])+"
_VARIABLE = (
    r"(?:secret|token|password|passwd|passphrase|(?:api|access|private)[_-]?key)s?"
    r"(?:[_-]?(?:key|id|secret))?"
    r"(?:[_-](?!(?:file|path|dir|url|name|type|limit|length|count|size|stdin)\b)[a-z0-9]{1,20}){0,4}"
)


def _up_to(quote: str) -> str:
    """All up to the quote that the group `quote` has, or to the end."""
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
    # how many tokens, what has been struck out, and variables are no secrets
    rf"(?!(?<=tokens[ =])\d+\b|{STRUCK}\b|\"?\$[\w{{(])"
    rf"(?:(?P<quote>{_QUOTE})(?!(?P=quote)){_up_to('quote')}|{_PLAIN})",
    re.IGNORECASE | re.DOTALL,
)
_USER = re.compile(
    rf"(?P<name>(?<!\S)(?:-u[ \t]*|--(?:proxy-)?user[ \t=]+)(?P<quote>{_QUOTE})?[\w.@+-]{{1,60}}:)"
    # `docker -u 1000:1000` and regions of a genome
    rf"(?!\d+(?:-\d+)?(?:[\s\"']|\Z))(?(quote){_up_to('quote')}|{_PLAIN})",
    re.DOTALL,
)
_SECRET_KEY = re.compile(
    r".*(secret|token|password|passwd|passphrase|apikey|accesskey|accesskeyid|accesskeysecret"
    r"|secretkey|privatekey|credential|authorization|cookie"
    # who knows such a URL can call it, whatever is in it
    r"|callbackurl|webhookurl|webhook)s?"
)
_NO_WORD = re.compile(r"[^a-z0-9]")


def redact_urls(text: str) -> str:
    """Of every URL in a text the user and the password, and the values of parameters that sign it
    or look as if."""
    return _strike_urls(text, 0)


def redact_text(text: str) -> str:
    """As `strike_urls`, and what shell commands show of headers, options and assignments."""
    text = _HEADER.sub(rf"\g<quoted>\g<item>\g<line>{STRUCK}", redact_urls(text))
    text = _ASSIGNED.sub(_strike_assigned, text)
    return _USER.sub(rf"\g<name>{STRUCK}", text)


def redact(value: JsonValue) -> JsonValue:
    """As `strike_text` for all texts in it, and whatever has a key that says that it is a secret;
    true, false, null and what is empty stay."""
    match value:
        case str():
            return redact_text(value)
        case list():
            return [redact(item) for item in value]
        case dict():
            return {redact_text(key): _strike_item(key, item) for key, item in value.items()}
        case _:
            return value


def _strike_item(key: str, value: JsonValue) -> JsonValue:
    word = _word(key)
    if not value or isinstance(value, bool) or not _SECRET_KEY.fullmatch(word):
        return redact(value)
    is_count = word.endswith("tokens") and str(value).isdecimal()
    return value if is_count else STRUCK


def _strike_assigned(match: re.Match[str]) -> str:
    return f"{match['name']}{match['quote'] or ''}{STRUCK}"


def _strike_urls(text: str, depth: int) -> str:
    return _URL.sub(lambda match: _strike_url(match, depth), text)


def _strike_url(match: re.Match[str], depth: int) -> str:
    whole, authority = match[0], match["authority"]
    begin = whole[: match.start("authority") - match.start()]
    user, at, host = authority.rpartition("@")
    parts = _QUERY.fullmatch(match["rest"])
    assert parts is not None
    query = _PARAMETER.sub(lambda match: _strike_parameter(match, depth), parts["query"])
    return f"{begin}{STRUCK if user else ''}{at}{host}{parts['path']}{query}"


def _strike_parameter(match: re.Match[str], depth: int) -> str:
    name = _word(unquote(match["name"]))
    value = unquote(match["value"].replace("\\u00", "%").replace("\\/", "/"))
    if not value or not (_SIGNING.fullmatch(name) or _is_secret(name, value, depth)):
        return match[0]
    return f"{match['mark']}{match['name']}{match['is']}{STRUCK}"


def _is_secret(name: str, value: str, depth: int) -> bool:
    """A value that nothing but its looks or the URL in it gives away."""
    if _URL.search(value) and (depth == _NESTED or _strike_urls(value, depth + 1) != value):
        return True
    looks = _SECRET_LOOKING.fullmatch(value)
    is_known = _FILE_NAME.fullmatch(value) or _UUID.fullmatch(value) or _HARMLESS.fullmatch(name)
    return bool(looks) and not is_known


def _word(name: str) -> str:
    return _NO_WORD.sub("", name.casefold())
