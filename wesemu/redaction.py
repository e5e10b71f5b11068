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
    # also as JSON and HTML write an ampersand
    r"(?P<mark>[?&#;]|\\u0026)(?P<name>(?:(?!\\u0026)[^=&;?#])+)=(?P<value>(?:(?!\\u0026)[^&;#])*)"
)
_SIGNING = re.compile(
    r"(amp)?x(amz|oss|goog|cos|obs|tos|ms|bce).*|.*(signature|token|secret|passw|passphrase|pwd"
    r"|credential|auth|apikey|accesskey|accessid|privatekey|keyid|keypairid|session|jwt|bearer"
    r"|ticket|hmac|sig|sas)|(amp)?(key|rlkey|policy|sign|code|pass|ak|sk)"
)
_HARMLESS = re.compile(r"(amp)?(versionid|generation|sha1|sha256|sha512|md5|etag|checksum)")
_SECRET_LOOKING = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9_+/=.~-]{24,}")
_FILE_NAME = re.compile(r".*\.[A-Za-z0-9]{1,8}")

_HEADER = re.compile(
    r"\b(?P<name>authorization|x-api-key|private-token|x-auth-token)(?P<mark>[\"']?\s*:\s*[\"']?)"
    r"(?P<scheme>(?:bearer|basic|token|digest)\s+)?[^\s\"']+",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(
    r"(?P<name>(?:secret|token|password|passwd|passphrase|api[_-]?key|access[_-]?key)"
    r"[a-z0-9_-]{0,30})=(?P<quote>[\"']?)(?![\"'$\s])[^\s\"']+",
    re.IGNORECASE,
)
_SECRET_KEY = re.compile(
    r".*(secret|token|password|passwd|passphrase|apikey|accesskey|accesskeyid|accesskeysecret"
    r"|secretkey|privatekey|credentials?|authorization"
    # who knows such a URL can call it, whatever is in it
    r"|callbackurl|webhookurl|webhook)"
)
_NO_WORD = re.compile(r"[^a-z0-9]")


def strike_urls(text: str) -> str:
    """Of every URL in a text the user and the password, and the values of parameters that sign it
    or look as if."""
    return _URL.sub(_strike_url, text)


def strike_text(text: str) -> str:
    """As `strike_urls`, and what shell commands show of headers and assignments."""
    text = _HEADER.sub(lambda m: f"{m['name']}{m['mark']}{m['scheme'] or ''}{STRUCK}", text)
    text = _ASSIGNED.sub(lambda m: f"{m['name']}={m['quote']}{STRUCK}", text)
    return strike_urls(text)


def strike(value: JsonValue) -> JsonValue:
    """As `strike_text` for all texts in it, and every text whose key says that it is a secret."""
    match value:
        case str():
            return strike_text(value)
        case list():
            return [strike(item) for item in value]
        case dict():
            return {strike_text(key): _strike_item(key, item) for key, item in value.items()}
        case _:
            return value


def _strike_item(key: str, value: JsonValue) -> JsonValue:
    is_secret = isinstance(value, str) and _SECRET_KEY.fullmatch(_word(key)) is not None
    return STRUCK if is_secret and value else strike(value)


def _strike_url(match: re.Match[str]) -> str:
    whole, authority = match[0], match["authority"]
    begin = whole[: match.start("authority") - match.start()]
    user, at, host = authority.rpartition("@")
    parts = _QUERY.fullmatch(match["rest"])
    assert parts is not None
    query = _PARAMETER.sub(_strike_parameter, parts["query"])
    return f"{begin}{STRUCK if user else ''}{at}{host}{parts['path']}{query}"


def _strike_parameter(match: re.Match[str]) -> str:
    name, value = _word(unquote(match["name"])), unquote(match["value"])
    if not value or not (_SIGNING.fullmatch(name) or _is_secret(name, value)):
        return match[0]
    return f"{match['mark']}{match['name']}={STRUCK}"


def _is_secret(name: str, value: str) -> bool:
    """A value that nothing but its looks or the URL in it gives away."""
    if strike_urls(value) != value:
        return True
    looks = _SECRET_LOOKING.fullmatch(value) and not _FILE_NAME.fullmatch(value)
    return bool(looks) and not _HARMLESS.fullmatch(name)


def _word(name: str) -> str:
    return _NO_WORD.sub("", name.casefold())
