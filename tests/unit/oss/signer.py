"""The three signatures of OSS, implemented a second time for the tests.

The source is Alibaba Cloud's documentation. It signs the simple requests of the tests, and shares
no code with the server."""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import quote

KEY_ID = "LTAIexample"
SECRET = "a secret for tests"
SCOPE = "cn-shenzhen/oss/aliyun_v4_request"


def sign_v1(method: str, resource: str, headers: Mapping[str, str], secret: str = SECRET) -> str:
    """The Authorization header; `resource` has the signed sub-resources already."""
    text = f"{method}\n" + "".join(
        headers.get(name, "") + "\n" for name in ("content-md5", "content-type", "date")
    )
    text += "".join(f"{n}:{headers[n]}\n" for n in sorted(headers) if n.startswith("x-oss-"))
    return f"OSS {KEY_ID}:{_base64(hashlib.sha1, secret, text + resource)}"


def sign_v2(method: str, resource: str, query: str, headers: Mapping[str, str]) -> str:
    """Adds the header `range` to what is signed; `query` is in canonical form."""
    text = f"{method}\n" + "".join(
        headers.get(name, "") + "\n" for name in ("content-md5", "content-type", "date")
    )
    names = sorted(n for n in headers if n.startswith("x-oss-") or n == "range")
    text += "".join(f"{name}:{headers[name]}\n" for name in names)
    text += f"range\n{quote(resource, safe='-_.~')}" + (f"?{query}" if query else "")
    value = _base64(hashlib.sha256, SECRET, text)
    return f"OSS2 AccessKeyId:{KEY_ID},AdditionalHeaders:range,Signature:{value}"


def sign_v4(method: str, resource: str, query: str, headers: Mapping[str, str]) -> str:
    """Adds the header `host` to what is signed; `query` is in canonical form.

    Without `x-oss-date` the header `date` is signed, as it is written."""
    signed = ("content-md5", "content-type", "host")
    names = sorted(n for n in headers if n.startswith("x-oss-") or n in signed)
    canonical = f"{method}\n{quote(resource, safe='/-_.~')}\n{query}\n"
    canonical += "".join(f"{name}:{headers[name]}\n" for name in names)
    canonical += f"\nhost\n{headers['x-oss-content-sha256']}"
    time = headers.get("x-oss-date") or headers["date"]
    day = time[:8] if time[:1].isdigit() else f"{parsedate_to_datetime(time):%Y%m%d}"
    scope = f"{day}/{SCOPE}"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"aliyun_v4{SECRET}".encode()
    for step in scope.split("/"):
        key = hmac.new(key, step.encode(), hashlib.sha256).digest()
    text = f"OSS4-HMAC-SHA256\n{time}\n{scope}\n{digest}".encode()
    value = hmac.new(key, text, hashlib.sha256).hexdigest()
    return f"OSS4-HMAC-SHA256 Credential={KEY_ID}/{scope},AdditionalHeaders=host,Signature={value}"


def _base64(digest: object, secret: str, text: str) -> str:
    made = hmac.new(secret.encode(), text.encode(), digest)  # type: ignore[call-overload]
    return base64.b64encode(made.digest()).decode()
