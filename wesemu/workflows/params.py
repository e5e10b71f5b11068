"""The parameters of the bundled pipelines, as every dialect sends them to the core.

A location is `oss://bucket/key` (a local bucket), or a plain relative name: an attachment.
A reference is the name of a registered one ("hs37d5", "hg19", "hg38") or an `oss://` location:
a FASTA at that key, else a folder with one FASTA, else the reference registered under the last
part of the key.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from wesemu.sla import ServiceLevel

Location = Annotated[str, Field(min_length=1, max_length=2048)]


class Lane(BaseModel):
    """The two mates' files of one lane, and its read group as an `@RG` line.

    Both may name one folder: every pair `*_1.f*q.gz`, `*_2.f*q.gz` below it becomes a lane.
    """

    model_config = ConfigDict(extra="forbid")

    first: Location
    second: Location
    read_group: str | None = Field(default=None, pattern=r"^@RG(\t|\\t)", max_length=1000)


class MappingParams(BaseModel):
    """`mapping`: align, sort, mark duplicates. `bam` is where the result is published."""

    model_config = ConfigDict(extra="forbid")

    reads: list[Lane] = Field(min_length=1, max_length=1000)
    reference: Location = "hs37d5"
    sample: str = Field(default="sample", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    markdup: bool = True
    service: ServiceLevel = ServiceLevel.SILVER
    bam: Location | None = None


class WgsParams(MappingParams):
    """`wgs`: mapping, then variant calling. The BAM is published only if `bam` is named."""

    vcf: Location | None = None


BundledName = Literal["mapping", "wgs"]
"""The bundled pipelines."""

PARAMS: dict[str, type[MappingParams]] = {"mapping": MappingParams, "wgs": WgsParams}
