"""The header Idempotency-Key of POST /runs, an extension (draft-ietf-httpapi-idempotency-key)."""

import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict

from wesemu.errors import InvalidRequest
from wesemu.runs.model import RunRequest
from wesemu.runs.submissions import SubmissionKey

HEADER = "Idempotency-Key"

_LONGEST = 255


def read_key(headers: Mapping[str, str]) -> str | None:
    """The key, with or without the quotes of a structured header. Raises InvalidRequest."""
    text = headers.get(HEADER)
    if text is None:
        return None
    key = text.strip()
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not key or len(key) > _LONGEST or not key.isascii() or not key.isprintable():
        raise InvalidRequest(
            f"{HEADER} must have 1 to {_LONGEST} printable ASCII letters; a UUID is a good one",
            field=HEADER,
        )
    return key


class Fingerprint:
    """What tells one submission from another, however it is encoded: its fields' meaning, the
    names and contents of its attachments in any order."""

    def __init__(self) -> None:
        self._attachments: dict[str, str] = {}

    async def reading(self, name: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The chunks of an attachment, unchanged, taken into account."""
        content = hashlib.sha256()
        async for chunk in chunks:
            content.update(chunk)
            yield chunk
        self._attachments[name] = content.hexdigest()

    def key(self, name: str | None, request: RunRequest) -> SubmissionKey | None:
        if name is None:
            return None
        whole = [asdict(request), self._attachments]
        text = json.dumps(whole, sort_keys=True, ensure_ascii=False)
        return SubmissionKey(name, hashlib.sha256(text.encode()).hexdigest())
