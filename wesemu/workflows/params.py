"""Parameters of the bundled pipelines, common to all APIs.

A location is `oss://bucket/key` (a local or remote bucket), `s3://bucket/key` (a remote one), an
http, https or file URL, or a plain relative name: an attachment.

A reference is a registered name ("hs37d5", "hg19", "hg38") or an `oss://` location: a FASTA file,
or a folder with one FASTA. If the key does not exist, its last part is looked up as a registered
name.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from wesemu.errors import InvalidRequest
from wesemu.genomics.ploidy import DIPLOID, parse_ploidy
from wesemu.genomics.read_groups import parse_read_group
from wesemu.runs.model import RunRequest
from wesemu.runs.sla import ServiceLevel
from wesemu.util.text import validation_reason

DEFAULT_REFERENCE = "hs37d5"

LocationText = Annotated[str, Field(min_length=1, max_length=2048)]

MAPPERS = ("bwa", "bwa-mem2", "bwa-mem3", "minimap2")
"""The built-in mappers."""

GPU_CALLERS = ("haplotypecaller",)
"""Callers that only Parabricks has; the first one is the default of runs on a GPU."""


class LaneParams(BaseModel):
    """Files of one lane, and its read group as an `@RG` line.

    If both mates name the same folder, each pair `*_1.f*q.gz`, `*_2.f*q.gz` in it becomes a lane.
    `interleaved` reads have one file, `first`, with alternating mates.
    """

    model_config = ConfigDict(extra="forbid")

    first: LocationText
    second: LocationText | None = None
    interleaved: bool = False
    read_group: str | None = Field(default=None, max_length=1000)

    @model_validator(mode="before")
    @classmethod
    def _is_lane(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError('must be an object {"first": FASTQ, "second": FASTQ}, not text')
        return value

    @field_validator("read_group")
    @classmethod
    def _is_read_group(cls, text: str | None) -> str | None:
        """Normalise the read group to one line with tabs."""
        try:
            return None if text is None else parse_read_group(text).line
        except InvalidRequest as error:
            raise ValueError(error.message) from error

    @model_validator(mode="after")
    def _has_both_mates(self) -> Self:
        if self.interleaved == (self.second is not None):
            raise ValueError("name the second mates' file, or set interleaved, not both")
        return self


class MappingParams(BaseModel):
    """Parameters of `mapping`: align, sort, mark duplicates.

    `bam` is the location of the result; a name in `.cram` selects CRAM. `quality_offset` is that of
    the FASTQ (64: Illumina before 1.8); None means 33 and rejects reads that look like 64.
    Duplicates within `optical_distance` pixels count as optical; 0 turns the search off.
    `bam_level` is the BAM compression, 0 (none) to 9. `reports` are HTML reports for people.
    """

    model_config = ConfigDict(extra="forbid")

    reads: list[LaneParams] = Field(min_length=1, max_length=1000)
    reference: LocationText = DEFAULT_REFERENCE
    sample: str = Field(default="sample", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    quality_offset: Literal[33, 64] | None = None
    mapper: str = Field(default="bwa", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    markdup: bool = True
    optical_distance: int = Field(default=0, ge=0, le=100_000)
    bam_level: int = Field(default=4, ge=0, le=9)
    reports: list[Literal["multiqc", "snakemake"]] = Field(default=[], max_length=2)
    service: ServiceLevel = ServiceLevel.SILVER
    bam: LocationText | None = None
    cram_version: Literal["3.0", "3.1"] = "3.0"

    @field_validator("optical_distance", "bam_level", mode="before")
    @classmethod
    def _is_number(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("write a whole number")
        return value

    @property
    def alignment(self) -> Literal["aligned.bam", "aligned.cram"]:
        """The name of the alignment in the pipeline."""
        return "aligned.cram" if (self.bam or "").lower().endswith(".cram") else "aligned.bam"

    @property
    def chosen_reports(self) -> list[str]:
        """The requested reports without duplicates."""
        return list(dict.fromkeys(self.reports))

    @property
    def more_files(self) -> dict[str, str]:
        """Locations of input files other than reads and reference, by parameter."""
        return {}


class WgsParams(MappingParams):
    """Parameters of `wgs`: mapping, then variant calling.

    The BAM is published only if `bam` is given, a gVCF is written only if `gvcf` is. `ploidy` is a
    number, or the location of a ploidy file, from which `sex` selects lines. `targets` is the
    location of a BED file.
    """

    vcf: LocationText | None = None
    gvcf: LocationText | None = None
    ploidy: int | LocationText = DIPLOID
    sex: str | None = Field(default=None, pattern=r"^[!-~]{1,100}$")
    targets: LocationText | None = None
    caller: Literal["bcftools", "freebayes", "gatk", "deepvariant", "haplotypecaller"] = "bcftools"

    @property
    def is_plain(self) -> bool:
        """True if the VCF is to be uncompressed."""
        return self.vcf is not None and not self.vcf.lower().endswith(".gz")

    @property
    def gvcf_file(self) -> Literal["calls.g.vcf.gz", "calls.g.vcf"] | None:
        """The name of the gVCF in the pipeline, or None."""
        if self.gvcf is None:
            return None
        return "calls.g.vcf.gz" if self.gvcf.lower().endswith(".gz") else "calls.g.vcf"

    @property
    def more_files(self) -> dict[str, str]:
        named = {"ploidy": self.ploidy, "targets": self.targets}
        return {name: value for name, value in named.items() if isinstance(value, str)}

    @field_validator("ploidy", mode="before")
    @classmethod
    def _is_ploidy(cls, value: object) -> int | str:
        """Accept a number as text."""
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError("write a whole number, or the location of a ploidy file")
        try:
            return parse_ploidy(value)
        except InvalidRequest as error:
            raise ValueError(error.message) from error

    @model_validator(mode="after")
    def _caller_can(self) -> Self:
        if self.gvcf is not None and self.caller == "freebayes":
            raise ValueError("freebayes writes no gVCF; choose another caller")
        return self


PARAMS: dict[str, type[MappingParams]] = {"mapping": MappingParams, "wgs": WgsParams}
"""The parameters of each bundled pipeline."""


def parse_params(request: RunRequest) -> MappingParams:
    """Parse the parameters of a bundled pipeline. Raise InvalidRequest for the first invalid
    one.
    """
    kind = PARAMS[request.workflow_url]
    unknown = next((name for name in request.params if name not in kind.model_fields), None)
    if unknown is not None:  # pydantic would list all of them
        raise InvalidRequest(
            f"it is unknown; leave it out or correct its name (workflow {request.workflow_url!r})",
            field=unknown[:80],
        )
    try:
        return kind.model_validate(request.params)
    except ValidationError as error:
        location, reason = validation_reason(error)
        field = location or "workflow_params"
        raise InvalidRequest(
            f"{reason} (workflow {request.workflow_url!r})", field=field
        ) from error
