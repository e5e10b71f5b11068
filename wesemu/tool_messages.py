"""What tools print, for people: the line that says why a tool failed, and no paths of a server.
Pure."""

import re
from pathlib import Path

_ERROR = re.compile(r"\[E::")
# printed by htslib on the way to another try
_HARMLESS = re.compile(r"\[E::idx_find_and_load\]")
_NO_REASON = re.compile(
    r"\[[WMID]::"  # htslib and bwa: warnings, messages, information, debugging
    r"|\[main\] (?:Version|CMD|Real time):"
    r"|\[(?:bwa_index|bwt_gen|BWTInc\w*)\] "  # progress of bwa index
    r"|\[bam_sort_core\] merging "
    r"|\S*\s*\b(?:WARN|WARNING|INFO|DEBUG)\b"  # GATK, Parabricks, Python's logging
)


def failure_reason(text: str) -> str:
    """The line that tells the reason of a failure, "" if no line does.

    htslib says first what is wrong ([E::…]), and then what it could not do for that reason; of
    other tools it is the last line. Warnings and progress are never a reason.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    errors = [line for line in errors if not _HARMLESS.match(line)] or errors
    if errors:
        return errors[0]
    return next((line for line in reversed(lines) if not _NO_REASON.match(line)), "")


def without_paths(text: str, folder: Path) -> str:
    """The text with the names of files below `folder` in the place of their paths."""
    return re.sub(re.escape(f"{folder}/") + r"(?:[^\s/'\":,;]+/)*", "", text)
