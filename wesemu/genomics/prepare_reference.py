"""Prepare the reference of one run: `python -m wesemu.genomics.prepare_reference`.

Puts the FASTA, its .fai, the mapper's index and the .alt file under one name into the run
directory. If the index beside the FASTA belongs to it, links to these files; otherwise normalises
and indexes the FASTA there. `--state` records the linked files, and
`python -m wesemu.genomics.reference_state` checks later that they have not changed.

Exit status: 0; 65 bad input (`--error` holds the message); 69 a tool failed.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from wesemu.errors import InputError, SystemFault
from wesemu.genomics.bwa_index import SUFFIXES_OF, index_fault
from wesemu.genomics.fasta import copy, is_gzip
from wesemu.genomics.reference_records import (
    ReferenceRecords,
    check_alternates,
    default_folder,
    find_alternates,
    write_alternates,
)
from wesemu.genomics.reference_state import write_state

BAD_INPUT = 65
TOOL_FAILED = 69


def prepare(
    fasta: Path,
    target: Path,
    *,
    records: ReferenceRecords,
    indexer: str,
    index: Sequence[str],
    faidx: Sequence[str],
) -> list[Path]:
    """Make `target` and its index files; return the files that are linked.

    `index` and `faidx` are commands without the FASTA. Raises `InputError`, `SystemFault`.
    """
    # Without this an indexer would write through the links of an earlier run.
    for suffix in {"", ".fai", ".alt"}.union(*SUFFIXES_OF.values()):
        Path(f"{target}{suffix}").unlink(missing_ok=True)
    suffixes = (".fai", *SUFFIXES_OF[indexer])
    if (indexed := indexed_in_place(fasta, indexer, records, _report)) is not None:
        linked = [Path(f"{indexed}{suffix}").absolute() for suffix in ("", *suffixes)]
        for source, suffix in zip(linked, ("", *suffixes), strict=True):
            Path(f"{target}{suffix}").symlink_to(source)
    else:
        linked = _build(fasta, target, records=records, index=index, faidx=faidx)
        if fault := index_fault(str(target), indexer):
            raise SystemFault(f"indexing {fasta} failed: {fault}. Is the disk full?")
    if (alternates := find_alternates(fasta)) is not None:
        write_alternates(alternates, target, fasta)
    return linked


def indexed_in_place(
    fasta: Path, indexer: str, records: ReferenceRecords, report: Callable[[str], None]
) -> Path | None:
    """Return `fasta`, or its link target, if it is plain text with its own index beside it.

    Returns None otherwise; `report` gets the reason. Raises `InputError`.
    """
    if is_gzip(fasta):
        report(f"{fasta.name} is compressed")
        return None
    for path in dict.fromkeys((fasta, fasta.resolve())):
        mismatch = records.index_mismatch(path, indexer)
        if mismatch is None:
            alternates = find_alternates(fasta)
            if alternates is not None:
                check_alternates(alternates, path, fasta)
            return path
        report(mismatch)
    return None


def _report(reason: str) -> None:
    sys.stderr.write(f"indexing the reference for this run: {reason}\n")


def _build(
    fasta: Path,
    target: Path,
    *,
    records: ReferenceRecords,
    index: Sequence[str],
    faidx: Sequence[str],
) -> list[Path]:
    facts = records.facts(fasta)
    linked = []
    if facts.regular and not is_gzip(fasta) and _ends_whole(fasta):
        target.symlink_to(fasta.absolute())
        linked.append(fasta.absolute())
    else:
        copy(fasta, target, facts)
    import subprocess

    for command in (faidx, index):
        done = subprocess.run([*command, str(target)], check=False)
        if done.returncode:
            raise SystemFault(
                f"{shlex.join(command)} ended with status {done.returncode}; its message is above."
            )
    return linked


def _ends_whole(fasta: Path) -> bool:
    with fasta.open("rb") as file:
        file.seek(-1, 2)
        return file.read() == b"\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="wesemu.genomics.prepare_reference", description=__doc__)
    parser.add_argument("--fasta", type=Path, required=True, help="plain or gzip")
    parser.add_argument("--output", type=Path, required=True, help="the FASTA to make")
    parser.add_argument("--state", type=Path, required=True, help="JSON: the linked files")
    parser.add_argument("--samtools", required=True, help="its command")
    parser.add_argument("--indexer", nargs=2, required=True, metavar=("NAME", "COMMAND"))
    parser.add_argument("--records", type=Path, default=default_folder())
    parser.add_argument("--error", type=Path, required=True, help="JSON, on bad input only")
    arguments = parser.parse_args(argv)
    arguments.error.unlink(missing_ok=True)
    name, command = arguments.indexer
    try:
        linked = prepare(
            arguments.fasta,
            arguments.output,
            records=ReferenceRecords(arguments.records),
            indexer=name,
            index=[*shlex.split(command), "index"],
            faidx=[*shlex.split(arguments.samtools), "faidx"],
        )
        write_state(arguments.state, arguments.fasta, linked)
    except InputError as error:
        fault = {"message": error.message, "file": error.file, "record": error.record}
        arguments.error.write_text(json.dumps(fault) + "\n", encoding="utf-8")
        sys.stderr.write(f"{error.message}\n")
        return BAD_INPUT
    except (SystemFault, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return TOOL_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
