"""Who sent a request: the access key whose secret signed it, in time and only once."""

import base64
import binascii
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from aiohttp import web

from wesemu.api.ags.errors import SignatureRefused
from wesemu.api.ags.signature import (
    ACS3,
    Signature,
    SignedRequest,
    collect_headers,
    read_authorization,
    string_to_sign,
    unsigned_headers,
    verify,
)
from wesemu.clock import Clock
from wesemu.runs.model import LOCAL_OWNER, Owner

SKEW = timedelta(minutes=15)
_NONCES = 100_000


class Authenticator:
    """Checks signatures against `keys` (access key id = secret); the id is the owner.

    Without keys everybody is LOCAL_OWNER, however the request is signed; unless `bearer` is
    given, which says that bearer tokens are asked for here, too, and whose a token is: our own
    addition, for clients that speak both APIs. `clock` is the wall clock: clients sign by
    theirs, never by emulated time. Nonces are remembered for as long as their requests would be
    accepted, the newest 100,000 of them.
    """

    def __init__(
        self,
        keys: Mapping[str, str],
        clock: Clock,
        *,
        bearer: Callable[[str], Awaitable[Owner | None]] | None = None,
    ) -> None:
        self._keys = dict(keys)
        self._bearer = bearer
        self._clock = clock
        self._nonces: OrderedDict[tuple[str, str], datetime] = OrderedDict()

    async def owner(self, request: web.Request) -> Owner:
        """Raises SignatureRefused, and what `bearer` raises. Reads the body where keys are
        configured."""
        if not self._keys and self._bearer is None:
            return LOCAL_OWNER
        if (owner := await self._shown(request.headers.get("Authorization", ""))) is not None:
            return owner
        return self.check(
            SignedRequest(
                method=request.method,
                target=request.raw_path,
                headers=collect_headers(list(request.headers.items())),
                body=await request.read(),
            )
        )

    async def _shown(self, authorization: str) -> Owner | None:
        scheme, _, token = authorization.partition(" ")
        if self._bearer is None or scheme.casefold() != "bearer":
            return None
        return await self._bearer(token.strip())

    def check(self, request: SignedRequest) -> Owner:
        """The owner of a signed request. Raises SignatureRefused."""
        signature = read_authorization(request.headers.get("authorization", ""))
        if signature is None:
            raise _incomplete("sign with 'acs' (HMAC-SHA1) or ACS3-HMAC-SHA256")
        secret = self._keys.get(signature.key_id)
        if secret is None:
            raise SignatureRefused(
                404, "InvalidAccessKeyId.NotFound", "Specified access key is not found."
            )
        if signature.scheme == ACS3 and (missing := unsigned_headers(request, signature)):
            raise _incomplete(f"SignedHeaders lacks {', '.join(missing)}")
        self._check_time(request, signature)
        if not verify(request, signature, secret):
            raise _mismatch(f"server string to sign is:{string_to_sign(request, signature)}")
        _check_digests(request)
        self._check_nonce(request, signature)
        return Owner(signature.key_id)

    def _check_time(self, request: SignedRequest, signature: Signature) -> None:
        names = ("x-acs-date",) if signature.scheme == ACS3 else ("x-acs-date", "date")
        sent = [request.headers[name] for name in names if name in request.headers]
        if not sent:
            raise _incomplete(f"send the header {' or '.join(names)}")
        now = self._clock.now()
        if any(abs(_moment(text) - now) > SKEW for text in sent):
            raise SignatureRefused(
                400,
                "InvalidTimeStamp.Expired",
                f"Specified time stamp or date value is expired: {sent[0][:40]} is more than 15 "
                f"minutes from the server's {now:%Y-%m-%dT%H:%M:%SZ}.",
            )

    def _check_nonce(self, request: SignedRequest, signature: Signature) -> None:
        nonce = request.headers.get("x-acs-signature-nonce")
        if nonce is None:
            return
        now = self._clock.now()
        while self._nonces and next(iter(self._nonces.values())) < now - 2 * SKEW:
            self._nonces.popitem(last=False)
        used = (signature.key_id, nonce)
        if used in self._nonces:
            raise SignatureRefused(
                400, "SignatureNonceUsed", f"Specified signature nonce was used already: {nonce}."
            )
        self._nonces[used] = now
        if len(self._nonces) > _NONCES:
            self._nonces.popitem(last=False)


def _check_digests(request: SignedRequest) -> None:
    """The body against Content-MD5 and x-acs-content-sha256, each where it was sent."""
    sent = request.headers.get("content-md5")
    if sent is not None and _decoded(sent) != _md5(request.body):
        raise _mismatch("the body is another than Content-MD5 says: send the body that was signed")
    sent = request.headers.get("x-acs-content-sha256")
    if sent is not None and sent.lower() != hashlib.sha256(request.body).hexdigest():
        raise _mismatch("the body is another than x-acs-content-sha256 says: send the same body")


def _md5(body: bytes) -> bytes:
    return hashlib.md5(body, usedforsecurity=False).digest()


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _moment(text: str) -> datetime:
    """A time in ISO 8601 or as HTTP writes it. Raises SignatureRefused."""
    try:
        moment = datetime.fromisoformat(text) if text[:1].isdigit() else parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError) as error:
        raise _incomplete(f"{text[:40]!r} is no date") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _incomplete(what: str) -> SignatureRefused:
    return SignatureRefused(
        400,
        "IncompleteSignature",
        f"The request signature does not conform to Aliyun standards: {what}.",
    )


def _mismatch(what: str) -> SignatureRefused:
    return SignatureRefused(
        400,
        "SignatureDoesNotMatch",
        f"Specified signature is not matched with our calculation. {what}",
    )
