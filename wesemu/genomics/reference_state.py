"""Check that the reference of a run has not changed: `python -m wesemu.genomics.reference_state`.

The arguments are STATE and ERROR. Runs link to a FASTA that has its index beside it. A file that
is replaced while a run uses it would mix two references, so the run ends with an error instead.

Exit status: 0; 65 a file was changed (the file ERROR holds the message).
"""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

CHANGED = 65


def write_state(state: Path, fasta: Path, files: Iterable[Path]) -> None:
    """Record the current state of the files. Raises OSError."""
    recorded = {"fasta": str(fasta), "files": {str(file): _describe(file) for file in files}}
    state.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


def _describe(file: Path) -> list[int]:
    """Return size, modification time and inode. Every hard link renews the change time."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def changed_file(state: Path) -> tuple[str, str] | None:
    """Return the FASTA and the first of its files that has changed, or None."""
    recorded = json.loads(state.read_text(encoding="utf-8"))
    for file, before in recorded["files"].items():
        try:
            now = _describe(Path(file))
        except OSError:
            now = []
        if now != before:
            return recorded["fasta"], file
    return None


def report_change(state: Path, error: Path) -> int:
    """Return 0, or CHANGED after writing the message to stderr and the file `error`."""
    changed = changed_file(state)
    if changed is None:
        return 0
    fasta, file = changed
    message = (
        f"{fasta} was replaced while this run used it ({Path(file).name} is not the file that the "
        "run began with). Send the request again; by plain Snakemake, add "
        "--forcerun prepare_reference."
    )
    fault = {"message": message, "file": fasta, "record": None}
    error.write_text(json.dumps(fault) + "\n", encoding="utf-8")
    sys.stderr.write(f"{message}\n")
    return CHANGED


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    return report_change(*map(Path, sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
