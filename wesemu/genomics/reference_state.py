"""Check that the reference of a run has not changed: `python -m wesemu.genomics.reference_state`.

The arguments are STATE and ERROR. Runs link to a FASTA that has its index beside it. A file that
is replaced while a run uses it would mix two references, so the run ends with an error instead.
Rules start this program often: it imports nothing but the standard library.

Exit status: 0; 65 a file was changed (the file ERROR holds the message).
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

CHANGED = 65


def write_state(state: Path, fasta: Path, files: Iterable[Path]) -> None:
    """Note how the files are now. Raises OSError."""
    noted = {"fasta": str(fasta), "files": {str(file): _describe(file) for file in files}}
    state.write_text(json.dumps(noted, indent=1) + "\n", encoding="utf-8")


def _describe(file: Path) -> list[int]:
    """Size, time of modification and inode; the time of change is new with every hard link."""
    found = file.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def changed_file(state: Path) -> tuple[str, str] | None:
    """The FASTA and the first of its files that is not as it was noted, or None."""
    noted = json.loads(state.read_text(encoding="utf-8"))
    for file, before in noted["files"].items():
        try:
            now = _describe(Path(file))
        except OSError:
            now = []
        if now != before:
            return noted["fasta"], file
    return None


def main(words: list[str]) -> int:
    """Answers the exit status."""
    state, error = map(Path, words)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
