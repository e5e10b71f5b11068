"""A reference as pbrun wants it: FASTA and indexes as regular files in one folder.

pbrun does not follow links out of what a container sees, and looks for the indexes beside the
file that a link leads to.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from wesemu.errors import InputError
from wesemu.genomics.bwaindex import SUFFIXES

FASTA_INDEX = ".fai"


def lay_out(
    reference: Path, folder: Path, suffixes: Iterable[str] = (FASTA_INDEX, *SUFFIXES)
) -> Path:
    """Hard links in `folder` (copies where the disk is another one) of the FASTA, its indexes and
    the list of alternate contigs, if there is one. Raises InputError for an index that is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "genome.fa"
    _put(reference, target)
    for suffix in suffixes:
        source = Path(f"{reference}{suffix}")
        if not source.exists():
            raise InputError(
                f"{reference} has no {suffix} beside it, which Parabricks needs. Index it with "
                "`wesemu reference add`, or samtools faidx and bwa index.",
                file=str(reference),
            )
        _put(source, Path(f"{target}{suffix}"))
    alternates = Path(f"{reference}.alt")
    if alternates.exists():
        _put(alternates, Path(f"{target}.alt"))
    return target


def _put(source: Path, target: Path) -> None:
    source = source.resolve()
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links, or somebody else's file
        shutil.copyfile(source, target)
