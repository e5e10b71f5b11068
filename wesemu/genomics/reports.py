"""Reports for people: `python -m wesemu.genomics.reports` makes MultiQC's, without a network.

MultiQC and what Snakemake's report needs are not among wesemu's own dependencies; they come with
the extra `reports`.

Exit status: 0; 69 MultiQC failed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from wesemu.errors import ToolMissing

NEEDS = {"multiqc": "multiqc", "snakemake": "pygments"}
"""The reports, and the Python package that each needs."""

FAILED = 69

_MARK = ".wesemu"
"""In the names of the files that MultiQC reads, between the sample and the kind."""

_CONFIG = {
    "fn_clean_exts": [_MARK],
    "fn_clean_trim": [],
    "no_ai": True,
    "no_version_check": True,
    "show_analysis_paths": False,
    "show_analysis_time": False,
    "title": None,
}


def check_reports(names: Iterable[str]) -> None:
    """Raise `ToolMissing` for a report whose package is not installed for this Python."""
    for name in names:
        package = NEEDS[name]
        if find_spec(package) is None:
            raise ToolMissing(
                f"The report {name!r} needs the Python package {package}, which is not installed: "
                "pip install 'wesemu[reports]', or leave it out of `reports`."
            )


def stage(folder: Path, sample: str, files: Iterable[Path]) -> None:
    """Copy the tools' reports to `folder` under names and contents that MultiQC takes for theirs.

    Samples are told by file names, in bcftools' report by the VCF's. Our markdup.json lacks the
    command by which MultiQC would know it.
    """
    name = sample.replace("/", "_") + _MARK
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace")
        if file.name == "markdup.json":
            text = json.dumps({"COMMAND": "samtools markdup"} | json.loads(text), indent=1)
        lines = text.splitlines(keepends=True)
        lines = [f"ID\t0\t{name}.vcf\n" if line.startswith("ID\t0\t") else line for line in lines]
        (folder / f"{name}.{file.name}").write_text("".join(lines), encoding="utf-8")


def report(sample: str, files: Iterable[Path], output: Path, folder: Path) -> int:
    """Run MultiQC in the empty `folder`, where it finds no configuration of a user's; answers
    its exit status."""
    (folder / "reports").mkdir()
    stage(folder / "reports", sample, files)
    (folder / "config.yaml").write_text(json.dumps(_CONFIG), encoding="utf-8")
    words = [sys.executable, "-P", "-m", "multiqc", "reports", "--config", "config.yaml"]
    words += ["--filename", "multiqc.html", "--no-data-dir", "--no-version-check", "--no-ai"]
    words += ["--no-megaqc-upload", "--no-ansi", "-m", "samtools", "-m", "bcftools", "--strict"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MULTIQC_")}
    home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "TMPDIR": str(folder)}
    done = subprocess.run(words, cwd=folder, env=kept | home, stdout=sys.stderr, check=False)
    if done.returncode == 0:
        shutil.move(folder / "multiqc.html", output)
    return done.returncode


def main(words: Sequence[str] | None = None) -> int:
    """Answers the exit status."""
    parser = argparse.ArgumentParser(prog="wesemu.genomics.reports", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="what samtools and bcftools report")
    parser.add_argument("--sample", required=True)
    parser.add_argument("--output", type=Path, required=True, help="HTML")
    arguments = parser.parse_args(words)
    output: Path = arguments.output.absolute()
    with tempfile.TemporaryDirectory(prefix=".multiqc-", dir=output.parent) as folder:
        status = report(arguments.sample, arguments.files, output, Path(folder).absolute())
    if status:
        sys.stderr.write(f"multiqc ended with status {status}; its own message is above\n")
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
