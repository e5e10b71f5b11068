"""Checks of ploidy and targets: the numbers, and the files' content against the reference."""

from collections.abc import Mapping
from pathlib import Path

from wesemu.errors import InputError
from wesemu.genomics.ploidy import PloidyFile, check_ploidy
from wesemu.genomics.regions import contig_lengths, normalized, read_targets
from wesemu.transfers.source import shown
from wesemu.workflows.params import MappingParams, WgsParams


def _contigs(reference: Path | None) -> dict[str, int] | None:
    """Lengths of the contigs by name; None for a reference whose index is not known to be its."""
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
    """Raise InvalidRequest for a ploidy that the caller cannot call with, and InputError for a
    file that cannot be used.

    `files` are those of `params.more_files` that lie here. Where the reference has no index yet,
    only what can be seen in the files alone is checked.
    """
    if not isinstance(params, WgsParams):
        return
    check_ploidy(params.caller, params.ploidy, params.sex)
    contigs = _contigs(reference) if files else None
    for field, path in files.items():
        name = shown(params.more_files[field])
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
