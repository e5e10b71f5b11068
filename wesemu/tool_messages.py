"""Which of the lines that a tool printed says why it failed. Pure."""

import re

_ERROR = re.compile(r"\[E::")
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
    for line in lines:
        if _ERROR.match(line):
            return line
    return next((line for line in reversed(lines) if not _NO_REASON.match(line)), "")
