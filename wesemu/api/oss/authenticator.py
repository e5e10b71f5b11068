"""Who sent a request: the access key whose secret signed it, in time."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from aiohttp import web

from wesemu.api.oss.call import Call
from wesemu.api.oss.errors import SignatureRefused
from wesemu.api.oss.signature import Signature, read_signature, string_to_sign, verify
from wesemu.clock import Clock
from wesemu.runs.model import LOCAL_OWNER, Owner

SKEW = timedelta(minutes=15)
_LONGEST = timedelta(days=7)
_LATEST = 253_402_300_799  # the last second of the year 9999


class OssAuthenticator:
    """Checks signatures against `keys` (access key id = secret); the id is the owner.

    Without keys everybody is LOCAL_OWNER, however the request is signed; unless `guarded`, which
    says that other credentials are asked for here: then nobody is. `clock` is the wall clock, by
    which clients sign.
    """

    def __init__(self, keys: Mapping[str, str], clock: Clock, *, guarded: bool = False) -> None:
        self._keys = dict(keys)
        self._is_open = not keys and not guarded
        self._clock = clock

    def owner(self, request: web.Request, call: Call) -> Owner:
        """Raises SignatureRefused."""
        headers = _collect(request)
        if not self._is_open:
            return self.check(call, headers)
        return LOCAL_OWNER

    def check(self, call: Call, headers: Mapping[str, str]) -> Owner:
        """The owner of a signed request; header names are in lower case.

        Raises SignatureRefused.
        """
        signature = read_signature(call, headers)
        if signature is None:
            raise _denied("You have no right to access this object: sign the request.")
        secret = self._keys.get(signature.key_id)
        if secret is None:
            raise SignatureRefused(
                403,
                "InvalidAccessKeyId",
                "The OSS Access Key Id you provided does not exist in our records.",
                details={"OSSAccessKeyId": signature.key_id},
            )
        self._check_time(signature)
        if not verify(call, headers, signature, secret):
            text = string_to_sign(call, headers, signature)
            raise SignatureRefused(
                403,
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided. "
                "Check your key and signing method.",
                details={
                    "OSSAccessKeyId": signature.key_id,
                    "SignatureProvided": signature.value,
                    "StringToSign": text,
                },
            )
        return Owner(signature.key_id)

    def _check_time(self, signature: Signature) -> None:
        now = self._clock.now()
        if signature.expires is not None:
            if signature.version == 4 and _moment(signature.time) - now > SKEW:
                raise _denied("Request is not valid yet.")
            if _expiry(signature) < now:
                raise _denied("Request has expired.")
            return
        if abs(_moment(signature.time) - now) > SKEW:
            raise SignatureRefused(
                403,
                "RequestTimeTooSkewed",
                "The difference between the request time and the current time is too large.",
                details={
                    "MaxAllowedSkewMilliseconds": str(SKEW // timedelta(milliseconds=1)),
                    "RequestTime": signature.time,
                    "ServerTime": f"{now:%Y-%m-%dT%H:%M:%S.000Z}",
                },
            )
        if signature.version == 4 and not signature.scope.startswith(signature.time[:8] + "/"):
            raise _denied("The date in Credential is another than x-oss-date.")


def _expiry(signature: Signature) -> datetime:
    text = signature.expires or ""
    if not text.isascii() or not text.isdecimal():
        raise _denied(f"Expires is {text[:40]!r}, not a number of seconds.")
    if signature.version != 4:
        return datetime.fromtimestamp(min(int(text[:20]), _LATEST), UTC)
    lasts = timedelta(seconds=min(int(text[:20]), _LATEST))
    if lasts > _LONGEST:
        raise _denied("A presigned URL (V4) holds for seven days at most.")
    return _moment(signature.time) + lasts


def _moment(text: str) -> datetime:
    """A time in ISO 8601 or as HTTP writes it. Raises SignatureRefused."""
    try:
        moment = datetime.fromisoformat(text) if text[:1].isdigit() else parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError) as error:
        raise _denied(
            f"OSS authentication requires a valid Date, and {text[:40]!r} is none."
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _collect(request: web.Request) -> dict[str, str]:
    """Names in lower case; a repeated header's values are joined, so that none is smuggled in."""
    collected: dict[str, str] = {}
    for name, value in request.headers.items():
        key, text = name.lower(), value.strip()
        collected[key] = f"{collected[key]},{text}" if key in collected else text
    return collected


def _denied(message: str) -> SignatureRefused:
    return SignatureRefused(403, "AccessDenied", message)
