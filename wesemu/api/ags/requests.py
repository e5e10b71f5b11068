"""StartWorkflow (AGS API reference): reading its fields in both dialects, and their translation to
the core's request. Dialect 1 sends folders and file names, dialect 2 sends whole keys."""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote_plus

from wesemu.errors import BucketNameRefused, BucketNotFound, InvalidRequest, NotFound
from wesemu.runs.model import PRETENDED, JsonObject, JsonValue, RunRequest
from wesemu.util.text import json_reason, whole_number, without_repeats

# Fields of the request body

KINDS = ("mapping", "wgs")
_FORM_FIELD = b"body="


@dataclass(frozen=True, slots=True)
class Field:
    """A field as sent: the caller's spelling of its name, and its value."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Location:
    """A key in the request's bucket, and the field to name in errors."""

    field: str
    key: str


class StartFields:
    """The fields of one kind of workflow ("mapping" or "wgs"). Names are case-insensitive.

    `{kind}` in a name stands for the kind. Empty strings and nulls count as absent.
    """

    def __init__(self, body: JsonObject) -> None:
        self._sent = _fold(body)
        self._read: set[str] = set()
        self.kind = self._kind()

    def get(self, *names: str) -> Field | None:
        """Return the first of `names`, spellings of one field, that is present. Raises
        InvalidRequest if one is not text, or if their values differ."""
        found: Field | None = None
        for name in names:
            key = name.format(kind=self.kind)
            self._read.add(key)
            sent = self._sent.get(key)
            if sent is None or not (text := _text(*sent)):
                continue
            if found is not None and found.value != text:
                raise _contradiction(sent[0], found.name)
            found = found or Field(sent[0], text)
        return found

    def require(self, *names: str) -> Field:
        """Like `get`, but raise InvalidRequest for the first of `names` if all are absent."""
        field = self.get(*names)
        if field is None:
            raise self._missing(names)
        return field

    def location(self, whole: str, folder: str, name: str) -> Location | None:
        """Return a key: sent whole (dialect 2), or as a folder and a file name (dialect 1).

        Raises InvalidRequest for two different keys, and for a folder alone.
        """
        key, joined = self.get(whole), self._joined(folder, name)
        if key is None:
            if joined is None and self.get(folder) is not None:
                raise self._missing((name,))
            return joined
        if joined is not None and joined.key != key.value:
            raise _contradiction(joined.field, key.name)
        return Location(key.name, key.value)

    def _joined(self, folder: str, name: str) -> Location | None:
        if (file := self.get(name)) is None:
            return None
        if (path := self.get(folder)) is None:
            return Location(file.name, file.value)
        return Location(file.name, f"{path.value.removesuffix('/')}/{file.value}")

    def require_location(self, whole: str, folder: str, name: str) -> Location:
        """Like `location`, but raise InvalidRequest if the key is absent."""
        location = self.location(whole, folder, name)
        if location is None:
            raise self._missing((whole, name))
        return location

    def unread(self) -> list[str]:
        """Return the fields with a value that nothing read, in the caller's spelling."""
        return [
            name
            for key, (name, value) in self._sent.items()
            if key not in self._read and value not in (None, "")
        ]

    def _kind(self) -> str:
        self.kind = ""
        sent = self.require("workflow_type")
        if sent.value.casefold() not in KINDS:
            raise InvalidRequest(
                f"{sent.value[:40]!r} is not a workflow; write {' or '.join(KINDS)}",
                field=sent.name,
            )
        return sent.value.casefold()

    def _missing(self, names: tuple[str, ...]) -> InvalidRequest:
        first, *others = (name.format(kind=self.kind) for name in names)
        instead = f" (or {', '.join(others)})" if others else ""
        return InvalidRequest(f"it is missing{instead}", field=first)


def parse_body(body: bytes) -> JsonObject:
    """Return the JSON object in a request's body, whatever its Content-Type is. Raises
    InvalidRequest for anything else.

    `setBody` of aliyun-java-sdk-cs wraps the object: as text in the form field `body`, or in the
    JSON member `body` if the request's content type is JSON.
    """
    try:
        if body.startswith(_FORM_FIELD):
            return _json_object(unquote_plus(body.removeprefix(_FORM_FIELD).decode("ascii")))
        value = _json_object(body.decode("utf-8-sig"))
        if value.keys() == {"body"} and isinstance(value["body"], str):
            return _json_object(value["body"])
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"the body is {json_reason(error)}; send one JSON object in UTF-8"
        ) from error
    return value


def _json_object(text: str) -> JsonObject:
    """Return the JSON object in a text.

    Raise ValueError or RecursionError if the text is not JSON, InvalidRequest for other JSON.
    """
    value = json.loads(text, object_pairs_hook=without_repeats)
    if not isinstance(value, dict):
        raise InvalidRequest('the body is JSON, but not an object: send {"name": "value", …}')
    return value


def _fold(body: JsonObject) -> Mapping[str, tuple[str, JsonValue]]:
    """Return name and value by lower-case name. If names differ only in case, one with a value
    wins. Raises InvalidRequest for two values."""
    folded: dict[str, tuple[str, JsonValue]] = {}
    for name, value in body.items():
        other, known = folded.get(name.lower(), (name, None))
        if known in (None, ""):
            folded[name.lower()] = (name, value)
        elif value not in (None, "", known):
            raise _contradiction(name, other)
    return folded


def _contradiction(name: str, other: str) -> InvalidRequest:
    return InvalidRequest(f"its value is not that of {other[:80]}; send one of them", field=name)


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


# Translation to the core's request

PLACEMENT = {"wesemu_node": "node", "wesemu_gpus": "gpus"}
"""Extension fields for the placement of a job, with their engine parameters."""

OWN_PARAMETERS = {
    "wesemu_quality_offset": "quality_offset",
    "wesemu_cram_version": "cram_version",
    "wesemu_ploidy": "ploidy",
    "wesemu_sex": "sex",
    "wesemu_targets": "targets",
}
"""Extension fields for parameters of the pipelines that AGS does not have."""

_NUMBERS = frozenset({"quality_offset", "ploidy"})
_KEYS = frozenset({"ploidy", "targets"})
"""Parameters that are keys in the request's bucket, unless the value is a number."""

_LIKE_A_NUMBER = re.compile(r"[+-]?[0-9.]+")
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class StartWorkflow:
    """The translated request. `names` maps the core's parameters to the caller's fields.

    `unread` has the caller's fields that mean nothing here.
    """

    request: RunRequest
    names: Mapping[str, str]
    unread: Sequence[str] = ()

    @contextmanager
    def with_caller_fields(self) -> Iterator[None]:
        """Replace the core's parameter names in errors with the caller's field names."""
        try:
            yield
        except (BucketNotFound, BucketNameRefused) as error:
            error.field = self.names["bucket"]
            raise
        except (InvalidRequest, NotFound) as error:
            field = error.field or ""
            error.field = self.names.get(field, error.field)
            raise


def translate(body: JsonObject) -> StartWorkflow:
    """Return the core's request. Raises InvalidRequest for missing or invalid fields."""
    fields = StartFields(body)
    bucket = fields.require("{kind}_bucket_name")
    if "/" in bucket.value:
        raise InvalidRequest(
            f"{bucket.value[:80]!r} is not a bucket name; write the key into the other fields",
            field=bucket.name,
        )
    start = _Translation(fields, bucket)
    start.reads()
    start.reference()
    start.outputs()
    start.choices()
    start.size()
    start.own_parameters()
    start.place()
    request = RunRequest(
        workflow_url=fields.kind,
        params=start.params,
        tags=start.tags,
        engine_parameters=start.engine_parameters,
        echo=start.echo(),
    )
    return StartWorkflow(request, start.names, fields.unread())


class _Translation:
    """Collects the parameters, the caller's field names, and the fields to echo."""

    def __init__(self, fields: StartFields, bucket: Field) -> None:
        self._fields = fields
        self._bucket = bucket.value
        self._echo: dict[str, str] = {"bucket_name": bucket.value}
        self.params: JsonObject = {}
        self.tags: dict[str, str] = {}
        self.engine_parameters: dict[str, str] = {}
        self._extensions: dict[str, str] = {}
        self.names: dict[str, str] = {"bucket": bucket.name}

    def reads(self) -> None:
        lane: JsonObject = {}
        for mate in ("first", "second"):
            location = self._fields.require_location(
                f"{{kind}}_fastq_{mate}_name",
                "{kind}_fastq_path",
                f"{{kind}}_fastq_{mate}_filename",
            )
            lane[mate] = self._url(location, f"reads.0.{mate}", f"fastq_{mate}_name")
        self.names["reads.0"] = self.names["reads.0.first"]
        if (group := self._fields.get("{kind}_reference_group")) is not None:
            lane["read_group"] = group.value
            self._record(group.name, "reads.0.read_group", "reference_group", group.value)
        self.params["reads"] = [lane]

    def reference(self) -> None:
        sent = self._fields.get("{kind}_reference_file", "{kind}_reference_path")
        if sent is None:
            # The server's default reference may be missing: name the field in the dialect of the
            # reads.
            whole = self._fields.get("{kind}_fastq_first_name") is not None
            missing = "reference_file" if whole else "reference_path"
            self.names["reference"] = f"{self._fields.kind}_{missing}"
            return
        location = Location(sent.name, sent.value)
        self.params["reference"] = self._url(location, "reference", "reference_file")

    def outputs(self) -> None:
        kinds = ("bam",) if self._fields.kind == "mapping" else ("gvcf", "vcf", "bam")
        for kind in kinds:
            # mapping requires a BAM; wgs requires a VCF unless a gVCF is written
            needed = kind == kinds[0] if len(kinds) == 1 else kind == "vcf"
            needed = needed and "gvcf" not in self.params
            find = self._fields.require_location if needed else self._fields.location
            location = find(
                f"{{kind}}_{kind}_file_name",
                f"{{kind}}_{kind}_out_path",
                f"{{kind}}_{kind}_out_filename",
            )
            if location is not None:
                self.params[kind] = self._url(location, kind, f"{kind}_file_name")
                self.names[f"{kind}_index"] = location.field

    def choices(self) -> None:
        if (markdup := self._fields.get("{kind}_is_mark_dup", "{kind}_mark_dup")) is not None:
            wanted = _TRUTH.get(markdup.value.casefold())
            if wanted is None:
                raise InvalidRequest(
                    f"{markdup.value[:40]!r} is neither true nor false", field=markdup.name
                )
            self.params["markdup"] = wanted
            self._record(markdup.name, "markdup", "mark_dup", markdup.value)
        if (service := self._fields.get("{kind}_service", "service")) is not None:
            self.params["service"] = service.value.lower()
            self._record(service.name, "service", "service", service.value)
        if (region := self._fields.get("{kind}_oss_region")) is not None:
            self._echo["oss_region"] = region.value

    def size(self) -> None:
        """Read the size that the job pretends to have, an extension."""
        if (bases := self._fields.get(PRETENDED)) is not None:
            self.tags[PRETENDED] = bases.value
            self.names[PRETENDED] = bases.name

    def own_parameters(self) -> None:
        """Read the pipelines' parameters, an extension. The core checks the values."""
        for name, parameter in OWN_PARAMETERS.items():
            if (sent := self._fields.get(name)) is not None:
                self.params[parameter] = self._own_value(parameter, sent.value)
                self.names[parameter] = sent.name
                self._extensions[name] = sent.value

    def _own_value(self, parameter: str, text: str) -> int | str:
        if parameter in _NUMBERS and (number := whole_number(text)) is not None:
            return number
        if parameter in _KEYS and not _LIKE_A_NUMBER.fullmatch(text):
            return f"oss://{self._bucket}/{text}"
        return text

    def place(self) -> None:
        """Read the placement of the job, an extension."""
        for name, parameter in PLACEMENT.items():
            if (sent := self._fields.get(name)) is not None:
                self.engine_parameters[parameter] = sent.value
                self.names[f"workflow_engine_parameters.{parameter}"] = sent.name

    def echo(self) -> JsonObject:
        """Return the fields to echo (DescirbeWorkflow): dialect 2, then the extensions."""
        parameters = self.engine_parameters
        placement = {
            field: parameters[name] for field, name in PLACEMENT.items() if name in parameters
        }
        return echo_fields(self._fields.kind, self._echo) | self.tags | self._extensions | placement

    def _url(self, location: Location, param: str, echoed: str) -> str:
        self._record(location.field, param, echoed, location.key)
        return f"oss://{self._bucket}/{location.key}"

    def _record(self, name: str, param: str, echoed: str, value: str) -> None:
        self.names[param] = name
        self._echo[echoed] = value


_ECHO_ORDER = (
    "oss_region",
    "fastq_first_name",
    "fastq_second_name",
    "bucket_name",
    "vcf_file_name",
    "gvcf_file_name",
    "bam_file_name",
    "reference_file",
    "reference_group",
    "mark_dup",
    "service",
)


def echo_fields(kind: str, values: Mapping[str, str]) -> JsonObject:
    """Return `values` under their names of dialect 2, in the order of the documented response."""
    return {f"{kind}_{name}": values[name] for name in _ECHO_ORDER if name in values}
