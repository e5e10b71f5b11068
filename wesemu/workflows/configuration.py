"""The configuration of a bundled pipeline, as its schema wants it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from wesemu.genomics.index_format import index_format
from wesemu.runs.model import JsonObject, JsonValue
from wesemu.workflows.inputs import LaneFiles
from wesemu.workflows.params import MappingParams, WgsParams


def configuration(
    params: MappingParams,
    lanes: Sequence[LaneFiles],
    reference: Path,
    more: Mapping[str, Path],
    records: Path,
) -> JsonObject:
    """`reference` is indexed, unless it is for a dry run; `more` are the files of
    `params.more_files`; `records` is where `ReferenceRecords`
    keeps what it knows. Blocks. Raises InputError."""
    reads: list[JsonValue] = []
    for lane in lanes:
        entry: JsonObject = {"first": str(lane.first)}
        if lane.second is None:
            entry["interleaved"] = True
        else:
            entry["second"] = str(lane.second)
        if lane.read_group is not None:
            entry["read_group"] = lane.read_group
        reads.append(entry)
    config: JsonObject = {
        "sample": params.sample,
        "reads": reads,
        "reference": str(reference),
        "reference_records": str(records),
        "index_format": index_format(reference, records),
        "quality_offset": params.quality_offset,
        "mapper": params.mapper,
        "markdup": params.markdup,
        "optical_distance": params.optical_distance,
        "bam_level": params.bam_level,
        "alignment": params.alignment,
        "cram_version": params.cram_version,
        "reports": [*params.chosen_reports],
    }
    if isinstance(params, WgsParams):
        config["caller"] = params.caller
        config["gvcf"] = params.gvcf_file or False
        config["ploidy"] = params.ploidy
        config["sex"] = params.sex
        config["targets"] = None
        config |= {name: str(path) for name, path in more.items()}
        config["vcf"] = "calls.vcf" if params.is_plain else "calls.vcf.gz"
    return config
