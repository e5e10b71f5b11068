"""The two signatures of AGS, implemented a second time for the tests.

The source is Alibaba Cloud's documentation. It signs the simple requests of the tests, and shares
no code with the server."""

import base64
import hashlib
import hmac

KEY_ID = "LTAIexample"
SECRET = "a secret for tests"
Headers = list[tuple[str, str]]


def sign_roa(method: str, resource: str, headers: Headers, secret: str = SECRET) -> str:
    """The Authorization header; `resource` is the path with its sorted, decoded parameters."""
    known = {name.lower(): value for name, value in headers}
    text = f"{method}\n"
    for name in ("accept", "content-md5", "content-type", "date"):
        text += known.get(name, "") + "\n"
    for name in sorted(known):
        if name.startswith("x-acs-"):
            text += f"{name}:{known[name]}\n"
    mac = hmac.new(secret.encode(), (text + resource).encode(), "sha1")
    return f"acs {KEY_ID}:{base64.b64encode(mac.digest()).decode()}"


def sign_acs3(
    method: str,
    path: str,
    query: str,
    headers: Headers,
    body: bytes = b"",
    secret: str = SECRET,
) -> str:
    """The Authorization header with all of `headers` signed; `query` is canonical already."""
    pairs = sorted((name.lower(), value) for name, value in headers)
    names = ";".join(name for name, _ in pairs)
    canonical = f"{method}\n{path}\n{query}\n"
    canonical += "".join(f"{name}:{value}\n" for name, value in pairs)
    canonical += f"\n{names}\n{hashlib.sha256(body).hexdigest()}"
    text = "ACS3-HMAC-SHA256\n" + hashlib.sha256(canonical.encode()).hexdigest()
    mac = hmac.new(secret.encode(), text.encode(), "sha256").hexdigest()
    return f"ACS3-HMAC-SHA256 Credential={KEY_ID},SignedHeaders={names},Signature={mac}"
