"""What a bundled pipeline's request may not want, seen before it is queued."""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from wesemu.errors import InvalidRequest, ToolMissing
from wesemu.genomics.index_format import CALLERS_WITH_CSI, LONGEST_IN_BAI
from wesemu.genomics.read_groups import complete_read_groups
from wesemu.genomics.reports import check_reports
from wesemu.genomics.tools import (
    OPTIONAL,
    REQUIRED,
    command_name,
    how_to_get,
    resolve,
    starts,
)
from wesemu.genomics.wheel import wheel_version
from wesemu.runs.ports import Publication
from wesemu.workflows.accelerated import check_caller
from wesemu.workflows.inputs import LaneFiles
from wesemu.workflows.params import MappingParams, WgsParams

_SCHEME = re.compile("^s3://")
_WILDCARD = re.compile(r"\{.*\}")


def check_names(
    params: MappingParams, inputs: set[Path | None], publications: Sequence[Publication]
) -> None:
    """Raises InvalidRequest for an output that is an input or another output."""
    locations = [params.reference]
    for lane in params.reads:
        locations += [lane.first] if lane.second is None else [lane.first, lane.second]
    locations += params.more_files.values()
    taken: set[Path | str | None] = {*inputs}
    taken |= {_SCHEME.sub("oss://", location) for location in locations}
    for publication in publications:
        target = publication.destination or publication.url
        if target is None:
            continue
        if target in taken:
            raise InvalidRequest(
                f"{publication.url} is an input of this run or named for two outputs; "
                "choose another name",
                field=publication.name,
            )
        taken.add(target)


def check_read_groups(params: MappingParams, lanes: Sequence[LaneFiles]) -> None:
    """Raises InvalidRequest for lanes of several samples and for two lanes with one ID. `lanes`
    are those that lie here; of the others the given read groups are checked."""
    entries = {f"reads.{number}": lane for number, lane in enumerate(params.reads)}
    if {lane.entry for lane in lanes} == entries.keys():
        complete_read_groups(
            [lane.read_group for lane in lanes],
            params.sample,
            entries=[lane.entry for lane in lanes],
        )
        return
    given = {entry: lane.read_group for entry, lane in entries.items() if lane.read_group}
    complete_read_groups([*given.values()], params.sample, entries=[*given])


def check_wildcards(params: MappingParams, names: Mapping[Path, str]) -> None:
    """Raises InvalidRequest for an input that Snakemake would take for a pattern. `names` are the
    caller's, by file, for those that lie here."""
    named = {"reference": params.reference}
    for number, lane in enumerate(params.reads):
        named[f"reads.{number}.first"] = lane.first
        if lane.second is not None:
            named[f"reads.{number}.second"] = lane.second
    named |= params.more_files
    for field, location in named.items():
        if not location.startswith(("http://", "https://")) and _WILDCARD.search(location):
            raise _wildcard(location, field)
    for path, name in names.items():
        if _WILDCARD.search(str(path)):
            raise _wildcard(name, "reads")


def _wildcard(name: str, field: str) -> InvalidRequest:
    return InvalidRequest(
        f"{field}: Snakemake takes the braces in the path of {name} for a wildcard; rename the "
        "file or its folder",
        field=field,
    )


def check_long_contigs(params: MappingParams, *, cuda: bool) -> None:
    """Raises InvalidRequest for what cannot index contigs that are too long for BAI and TBI."""
    most = f"contigs of over {LONGEST_IN_BAI:,} bases"
    if cuda:
        raise InvalidRequest(
            f"Parabricks cannot index {most}; run on the CPU (node: cpu), or split the contigs",
            field="reference",
        )
    if isinstance(params, WgsParams) and params.caller not in CALLERS_WITH_CSI:
        raise InvalidRequest(
            f"{params.caller} cannot index {most}; choose the caller "
            f"{' or '.join(CALLERS_WITH_CSI)}, or split the contigs",
            field="caller",
        )


def check_tools(params: MappingParams, *, cuda: bool, commands: Mapping[str, str]) -> None:
    """Raises InvalidRequest for a mapper, caller or report whose program is not installed, and
    for a caller of a GPU without one; with a GPU deepvariant is Parabricks'.

    `commands` are those of the setting `tools`."""
    chosen = {"mapper": params.mapper}
    if isinstance(params, WgsParams):
        if not cuda:
            check_caller(params)
        if not (cuda and params.caller == "deepvariant"):
            chosen["caller"] = params.caller
    for tool in REQUIRED:
        _check_command(tool, commands)
    if not cuda:
        _check_bwa(params.mapper, commands)
    for field, tool in chosen.items():
        if tool not in OPTIONAL:
            continue
        _check_command(tool, commands)
        if tool not in commands and shutil.which(command_name(tool)) is None:
            raise InvalidRequest(
                f"{tool} is not installed on this server; install {how_to_get(tool)} there, or "
                f"leave {field} out",
                field=field,
            )
    try:
        check_reports(params.chosen_reports)
    except ToolMissing as error:
        raise InvalidRequest(error.message, field="reports") from error


def _check_command(tool: str, commands: Mapping[str, str]) -> None:
    if tool in commands and not starts(commands[tool]):
        raise InvalidRequest(
            f"this server's setting tools.{tool} is {commands[tool]!r}, and there is no such "
            "program; correct it there or leave it out"
        )


def _check_bwa(mapper: str, commands: Mapping[str, str]) -> None:
    """Raises InvalidRequest where bwa or bwa-mem3 was chosen and nothing here can map so."""
    # on most machines the wheel of bwa is there, and no program has to be started to know
    if mapper == "bwa-mem3" or (mapper == "bwa" and wheel_version("bwa mem") is None):
        try:
            resolve(commands).mapper(mapper)
        except ToolMissing as error:
            raise InvalidRequest(error.message, field="mapper") from error
