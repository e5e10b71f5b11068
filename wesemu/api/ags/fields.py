"""The fields of a StartWorkflow request, in both of AGS's official dialects.

Dialect 1 is the API reference's parameter table (a folder and file names apart), dialect 2 the
same page's SDK sample and what the `ags` CLI sends (whole keys). Names are matched without
regard to case: the sample itself writes `wgs_vcf_File_name` and gets `wgs_vcf_file_name` back.
Names of the other kind of workflow are ignored, as the documented examples need.
"""

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from wesemu.errors import InvalidRequest
from wesemu.runs.model import JsonObject, JsonValue
from wesemu.wording import json_reason

KINDS = ("mapping", "wgs")


@dataclass(frozen=True, slots=True)
class Field:
    """One value as it was sent: the caller's spelling of the name, and the text."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Location:
    """A key in the request's bucket, and the field that the caller would mend."""

    field: str
    key: str


class StartFields:
    """The fields of one kind of workflow ("mapping", "wgs"), found by any of their names.

    `{kind}` in a name stands for the kind's prefix. Empty strings and nulls count as absent.
    """

    def __init__(self, body: JsonObject) -> None:
        self._sent = _fold(body)
        self.kind = self._kind()

    def get(self, *names: str) -> Field | None:
        """The first of `names` that was sent. Raises InvalidRequest for a value that is no text."""
        for name in names:
            sent = self._sent.get(name.format(kind=self.kind))
            if sent is not None and (text := _text(*sent)):
                return Field(sent[0], text)
        return None

    def need(self, *names: str) -> Field:
        """As `get`; raises InvalidRequest naming the first of `names` where none was sent."""
        found = self.get(*names)
        if found is None:
            raise self._missing(names)
        return found

    def location(self, whole: str, folder: str, name: str) -> Location | None:
        """A key, sent whole (dialect 2) or as a folder and a name in it (dialect 1)."""
        if (key := self.get(whole)) is not None:
            return Location(key.name, key.value)
        path, file = self.get(folder), self.get(name)
        if file is None:
            if path is not None:
                raise self._missing((name,))
            return None
        if path is None:
            return Location(file.name, file.value)
        return Location(file.name, f"{path.value.removesuffix('/')}/{file.value}")

    def need_location(self, whole: str, folder: str, name: str) -> Location:
        """As `location`; raises InvalidRequest where neither was sent."""
        found = self.location(whole, folder, name)
        if found is None:
            raise self._missing((whole, name))
        return found

    def _kind(self) -> str:
        self.kind = ""
        sent = self.need("workflow_type")
        if sent.value.casefold() not in KINDS:
            raise InvalidRequest(
                f"{sent.value[:40]!r} is no workflow; write {' or '.join(KINDS)}", field=sent.name
            )
        return sent.value.casefold()

    def _missing(self, names: tuple[str, ...]) -> InvalidRequest:
        first, *others = (name.format(kind=self.kind) for name in names)
        instead = f" (or {', '.join(others)})" if others else ""
        return InvalidRequest(f"it is missing{instead}", field=first)


def parse_body(body: bytes) -> JsonObject:
    """The JSON object in a request's body, whatever its Content-Type says.

    Raises InvalidRequest for anything else.
    """
    try:
        value = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"the body is {json_reason(error)}; send one JSON object in UTF-8"
        ) from error
    if not isinstance(value, dict):
        raise InvalidRequest('the body is JSON, but not an object: send {"name": "value", …}')
    return value


def _fold(body: JsonObject) -> Mapping[str, tuple[str, JsonValue]]:
    """By lower-case name. Of names that differ only in case, one that has a value wins."""
    folded: dict[str, tuple[str, JsonValue]] = {}
    for name, value in body.items():
        if name.lower() not in folded or value not in (None, ""):
            folded[name.lower()] = (name, value)
    return folded


def _text(name: str, value: JsonValue) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case str():
            if any(unicodedata.category(letter)[0] == "C" and letter != "\t" for letter in value):
                raise InvalidRequest("it holds a control character; take it out", field=name)
            return value
        case _:
            raise InvalidRequest("it must be a string", field=name)
