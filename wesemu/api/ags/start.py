"""StartWorkflow: from AGS's fields to the core's request and, for errors, back."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from wesemu.api.ags.fields import Field, Location, StartFields
from wesemu.errors import BucketNameRefused, BucketNotFound, InvalidRequest, NotFound
from wesemu.numerals import whole_number
from wesemu.runs.model import JsonObject, RunRequest
from wesemu.runs.terms import PRETENDED

PLACES = {"wesemu_node": "node", "wesemu_gpus": "gpus"}
"""Our fields for where a job is carried out, and the engine parameters that they become."""

OWN_PARAMETERS = {
    "wesemu_quality_offset": "quality_offset",
    "wesemu_cram_version": "cram_version",
    "wesemu_ploidy": "ploidy",
    "wesemu_sex": "sex",
    "wesemu_targets": "targets",
}
"""Our fields for parameters of the pipelines that AGS has no field for."""

_NUMBERS = frozenset({"quality_offset", "ploidy"})
_KEYS = frozenset({"ploidy", "targets"})
"""Those that are keys in the request's bucket, where they are no numbers."""

_LIKE_A_NUMBER = re.compile(r"[+-]?[0-9.]+")
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class Start:
    """A translated request, and the caller's own field name for each parameter of the core."""

    request: RunRequest
    names: Mapping[str, str]

    @contextmanager
    def in_callers_words(self) -> Iterator[None]:
        """Have errors name the fields that the caller sent."""
        try:
            yield
        except (BucketNotFound, BucketNameRefused) as error:
            error.field = self.names["bucket"]
            raise
        except (InvalidRequest, NotFound) as error:
            field = error.field or ""
            error.message = error.message.removeprefix(f"{field}: ")
            error.field = self.names.get(field, error.field)
            raise


def translate(body: JsonObject) -> Start:
    """Raises InvalidRequest for missing fields and values that cannot be translated."""
    fields = StartFields(body)
    bucket = fields.need("{kind}_bucket_name")
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
    return Start(request, start.names)


class _Translation:
    """Collects the parameters, the caller's names for them, and the echo's values."""

    def __init__(self, fields: StartFields, bucket: Field) -> None:
        self._fields = fields
        self._bucket = bucket.value
        self._echo: dict[str, str] = {"bucket_name": bucket.value}
        self.params: JsonObject = {}
        self.tags: dict[str, str] = {}
        self.engine_parameters: dict[str, str] = {}
        self._ours: dict[str, str] = {}
        self.names: dict[str, str] = {"bucket": bucket.name}

    def reads(self) -> None:
        lane: JsonObject = {}
        for mate in ("first", "second"):
            found = self._fields.need_location(
                f"{{kind}}_fastq_{mate}_name",
                "{kind}_fastq_path",
                f"{{kind}}_fastq_{mate}_filename",
            )
            lane[mate] = self._url(found, f"reads.0.{mate}", f"fastq_{mate}_name")
        self.names["reads.0"] = self.names["reads.0.first"]
        if (group := self._fields.get("{kind}_reference_group")) is not None:
            lane["read_group"] = group.value
            self._told(group.name, "reads.0.read_group", "reference_group", group.value)
        self.params["reads"] = [lane]

    def reference(self) -> None:
        sent = self._fields.get("{kind}_reference_file", "{kind}_reference_path")
        if sent is None:
            # the default may be what is missing: said in the dialect of the reads
            whole = self._fields.get("{kind}_fastq_first_name") is not None
            missing = "reference_file" if whole else "reference_path"
            self.names["reference"] = f"{self._fields.kind}_{missing}"
            return
        location = Location(sent.name, sent.value)
        self.params["reference"] = self._url(location, "reference", "reference_file")

    def outputs(self) -> None:
        kinds = ("bam",) if self._fields.kind == "mapping" else ("gvcf", "vcf", "bam")
        for kind in kinds:
            # a gVCF is enough
            needed = kind == kinds[0] if len(kinds) == 1 else kind == "vcf"
            needed = needed and "gvcf" not in self.params
            find = self._fields.need_location if needed else self._fields.location
            found = find(
                f"{{kind}}_{kind}_file_name",
                f"{{kind}}_{kind}_out_path",
                f"{{kind}}_{kind}_out_filename",
            )
            if found is not None:
                self.params[kind] = self._url(found, kind, f"{kind}_file_name")
                self.names[f"{kind}_index"] = found.field

    def choices(self) -> None:
        if (markdup := self._fields.get("{kind}_is_mark_dup", "{kind}_mark_dup")) is not None:
            wanted = _TRUTH.get(markdup.value.casefold())
            if wanted is None:
                raise InvalidRequest(
                    f"{markdup.value[:40]!r} is neither true nor false", field=markdup.name
                )
            self.params["markdup"] = wanted
            self._told(markdup.name, "markdup", "mark_dup", markdup.value)
        if (service := self._fields.get("{kind}_service", "service")) is not None:
            self.params["service"] = service.value.lower()
            self._told(service.name, "service", "service", service.value)
        if (region := self._fields.get("{kind}_oss_region")) is not None:
            self._echo["oss_region"] = region.value

    def size(self) -> None:
        """The size that the job pretends to have: our addition."""
        if (bases := self._fields.get(PRETENDED)) is not None:
            self.tags[PRETENDED] = bases.value
            self.names[PRETENDED] = bases.name

    def own_parameters(self) -> None:
        """Our additions. The core checks the values."""
        for ours, parameter in OWN_PARAMETERS.items():
            if (sent := self._fields.get(ours)) is not None:
                self.params[parameter] = self._own_value(parameter, sent.value)
                self.names[parameter] = sent.name
                self._ours[ours] = sent.value

    def _own_value(self, parameter: str, text: str) -> int | str:
        if parameter in _NUMBERS and (number := whole_number(text)) is not None:
            return number
        if parameter in _KEYS and not _LIKE_A_NUMBER.fullmatch(text):
            return f"oss://{self._bucket}/{text}"
        return text

    def place(self) -> None:
        """Where the job is carried out: our addition."""
        for ours, parameter in PLACES.items():
            if (sent := self._fields.get(ours)) is not None:
                self.engine_parameters[parameter] = sent.value
                self.names[f"workflow_engine_parameters.{parameter}"] = sent.name

    def echo(self) -> JsonObject:
        """The request in dialect 2, as DescirbeWorkflow shows it; what is ours at the end."""
        asked = self.engine_parameters
        places = {ours: asked[name] for ours, name in PLACES.items() if name in asked}
        return arrange(self._fields.kind, self._echo) | self.tags | self._ours | places

    def _url(self, location: Location, param: str, echoed: str) -> str:
        self._told(location.field, param, echoed, location.key)
        return f"oss://{self._bucket}/{location.key}"

    def _told(self, name: str, param: str, echoed: str, value: str) -> None:
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


def arrange(kind: str, values: Mapping[str, str]) -> JsonObject:
    """`values` under their names of dialect 2, in the order of the documented answer."""
    return {f"{kind}_{name}": values[name] for name in _ECHO_ORDER if name in values}
