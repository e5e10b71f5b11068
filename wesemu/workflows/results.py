"""Bundled pipelines: checks of a request before it is queued, and results of a finished run."""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wesemu.errors import EngineFault, InputError, InvalidRequest, ToolMissing
from wesemu.genomics.ploidy import PloidyFile, check_ploidy
from wesemu.genomics.read_groups import check_for_freebayes, complete_read_groups
from wesemu.genomics.reference_records import CALLERS_WITH_CSI, LONGEST_IN_BAI
from wesemu.genomics.regions import contig_lengths, normalized, read_targets
from wesemu.genomics.reports import check_reports
from wesemu.genomics.tools import OPTIONAL, REQUIRED, command_name, how_to_get, resolve, starts
from wesemu.genomics.wheel_tools import wheel_version
from wesemu.runs.model import ReadCounts, RunFailure
from wesemu.runs.ports import Publication, Results
from wesemu.runs.run_directory import Workspace, read_json
from wesemu.storage.remote import RemoteKey, WebFile, redacted_url
from wesemu.util.text import without_paths
from wesemu.workflows.inputs import LaneFiles
from wesemu.workflows.locations import RunInputs
from wesemu.workflows.params import GPU_CALLERS, MappingParams, WgsParams


def _contigs(reference: Path | None) -> dict[str, int] | None:
    """Return contig lengths by name; None if the reference has no up-to-date index."""
    if reference is None:
        return None
    index = Path(f"{reference}.fai")
    try:
        if index.stat().st_mtime < reference.stat().st_mtime:
            return None
        return contig_lengths(reference)
    except (OSError, ValueError):
        return None


def check_calling(params: MappingParams, files: Mapping[str, Path], reference: Path | None) -> None:
    """Check ploidy and targets.

    Raise InvalidRequest for a ploidy that the caller does not support, and InputError for an
    invalid file. `files` are the local ones of `params.more_files`. Without an index of the
    reference, the files are not compared with its contigs.
    """
    if not isinstance(params, WgsParams):
        return
    check_ploidy(params.caller, params.ploidy, params.sex)
    contigs = _contigs(reference) if files else None
    for field, path in files.items():
        name = redacted_url(params.more_files[field])
        try:
            if field == "ploidy":
                PloidyFile(path, name).of(params.sex, contigs, params.caller)
                continue
            targets = read_targets(path, name)
            if contigs is not None:
                normalized(targets, contigs, name)
        except InputError as error:
            error.field = field
            raise


# Results: figures, warnings and failures that a pipeline leaves in its run directory.


def read_results(workspace: Workspace) -> Results:
    """Return counts, tools and messages. Raise EngineFault if the pipeline left no counts."""
    results = workspace.work / "results"
    try:
        counted: dict[str, Any] = read_json(results / "reads.json")
        counts = ReadCounts(int(counted["total_reads"]), int(counted["total_bases"]))
        summary = results / "summary.json"
        return _results(counts, read_json(summary) if summary.is_file() else {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineFault(f"the pipeline left no usable read counts: {error}") from error


def _results(counts: ReadCounts, summary: dict[str, Any]) -> Results:
    """Return the figures of a run; warnings and notes become tags."""
    tags = {f"wesemu.{kind}": " ".join(summary.get(kind, ())) for kind in ("warnings", "notes")}
    return Results(
        counts=counts,
        tools={name: str(version) for name, version in summary.get("tools", {}).items()},
        tags={name: text for name, text in tags.items() if text},
    )


def input_failure(work: Path, names: Callable[[], Mapping[Path, str]]) -> RunFailure | None:
    """Return the pipeline's message about an invalid input, or None.

    `names` returns the caller's names by file.
    """
    message = _read_message(work / "input_error.json")
    if message is None:
        return None
    text, file, record = str(message["message"]), message.get("file"), message.get("record")
    known = {str(path): name for path, name in names().items()}

    def with_callers_names(text: str) -> str:
        # The longest first: one path may be a prefix of another.
        for local in sorted(known, key=len, reverse=True):
            text = text.replace(local, known[local])
        return without_paths(text, work.parents[2])

    return RunFailure(
        message=with_callers_names(text),
        hint="correct or replace the file and send the request again; nothing was published",
        file=with_callers_names(file) if isinstance(file, str) else None,
        record=record if isinstance(record, int) else None,
    )


def gpu_failure(work: Path) -> RunFailure | None:
    """Return the message and hint of a failed GPU step, or None."""
    message = _read_message(work / "accelerator_error.json")
    if message is None:
        return None
    hint = message.get("hint")
    return RunFailure(str(message["message"]), hint=hint if isinstance(hint, str) else None)


def _read_message(path: Path) -> dict[str, Any] | None:
    """Return a step's message, or None if it left none or an invalid one."""
    try:
        message = read_json(path)
    except (OSError, ValueError):
        return None
    return message if isinstance(message, dict) and "message" in message else None


# Checks of a request before it is queued.

_WILDCARD = re.compile(r"\{.*\}")


def check_names(
    inputs: RunInputs, files: set[Path | None], publications: Sequence[Publication]
) -> None:
    """Raise InvalidRequest for an output that is an input or another output."""
    taken: set[Path | str | None] = {*files}
    for each in inputs:
        if isinstance(each.location, RemoteKey):
            taken.add(each.location.display_name)
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
    """Raise InvalidRequest for lanes of several samples, for two lanes with one ID, and for read
    groups that the caller misreads.

    `lanes` are the local ones; if some are missing, only the given read groups are checked.
    """
    lanes_of = {f"reads.{number}": lane for number, lane in enumerate(params.reads)}
    if {lane.entry for lane in lanes} == lanes_of.keys():
        given = [(lane.entry, lane.read_group) for lane in lanes]
    else:
        named = [(entry, lane.read_group) for entry, lane in lanes_of.items()]
        given = [(entry, group) for entry, group in named if group]
    entries = [entry for entry, _ in given]
    groups = complete_read_groups([group for _, group in given], params.sample, entries=entries)
    if isinstance(params, WgsParams) and params.caller == "freebayes":
        check_for_freebayes(groups, entries)


def check_wildcards(inputs: RunInputs, names: Mapping[Path, str]) -> None:
    """Raise InvalidRequest for an input whose path Snakemake would take for a wildcard pattern.

    `names` are the caller's names by file, for local files.
    """
    for each in inputs:
        if not isinstance(each.location, WebFile) and _WILDCARD.search(each.text):
            raise _wildcard(each.text, each.field)
    for path, name in names.items():
        if _WILDCARD.search(str(path)):
            raise _wildcard(name, "reads")


def _wildcard(name: str, field: str) -> InvalidRequest:
    if not _WILDCARD.search(name):
        return InvalidRequest(
            f"Snakemake takes the braces in the path of the server's folder with {name} for a "
            "wildcard; start the server with another data directory (--data)",
            field=field,
        )
    return InvalidRequest(
        f"Snakemake takes the braces in the path of {name} for a wildcard; rename the "
        "file or its folder",
        field=field,
    )


def check_long_contigs(params: MappingParams, *, cuda: bool) -> None:
    """Raise InvalidRequest for tools that cannot index contigs too long for BAI and TBI."""
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
    """Raise InvalidRequest for a mapper, caller or report whose program is not installed.

    Also for a caller that needs a GPU, if `cuda` is false. If it is true, Parabricks provides
    deepvariant. `commands` are those of the setting `tools`.
    """
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
    """Raise InvalidRequest if bwa or bwa-mem3 was chosen and cannot run here."""
    # Usually the wheel of bwa is installed, and no program has to be started to find out.
    if mapper == "bwa-mem3" or (mapper == "bwa" and wheel_version("bwa mem") is None):
        try:
            resolve(commands).mapper(mapper)
        except ToolMissing as error:
            raise InvalidRequest(error.message, field="mapper") from error


def check_caller(params: WgsParams) -> None:
    """Raise InvalidRequest for a caller that needs a GPU."""
    if params.caller in GPU_CALLERS:
        raise InvalidRequest(
            f"the caller {params.caller} is Parabricks' and runs on a CUDA node only; choose "
            "gatk, another caller or a CUDA node",
            field="caller",
        )
