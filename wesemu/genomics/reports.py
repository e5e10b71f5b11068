"""Reports for people: `python -m wesemu.genomics.reports` runs MultiQC, without a network.

MultiQC, and pygments for Snakemake's report, come with the extra `reports`.

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
"""The Python package that each report needs."""

FAILED = 69

_MARK = ".wesemu"
"""Separates the sample from the type of report in the names of the files that MultiQC reads."""

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
    """Copy the tools' reports to `folder`, changed so that MultiQC recognises them.

    MultiQC takes the sample from the file name, and from the name of the VCF in bcftools' report.
    It recognises markdup.json by its command, which our file lacks.
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
    """Run MultiQC in the empty `folder`, where it finds no user's configuration.

    Returns its exit status.
    """
    (folder / "reports").mkdir()
    stage(folder / "reports", sample, files)
    (folder / "config.yaml").write_text(json.dumps(_CONFIG), encoding="utf-8")
    command = [sys.executable, "-P", "-m", "multiqc", "reports", "--config", "config.yaml"]
    command += ["--filename", "multiqc.html", "--no-data-dir", "--no-version-check", "--no-ai"]
    command += ["--no-megaqc-upload", "--no-ansi", "-m", "samtools", "-m", "bcftools", "--strict"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MULTIQC_")}
    home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "TMPDIR": str(folder)}
    done = subprocess.run(command, cwd=folder, env=kept | home, stdout=sys.stderr, check=False)
    if done.returncode == 0:
        shutil.move(folder / "multiqc.html", output)
    return done.returncode


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="wesemu.genomics.reports", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="reports of samtools and bcftools")
    parser.add_argument("--sample", required=True)
    parser.add_argument("--output", type=Path, required=True, help="HTML")
    arguments = parser.parse_args(argv)
    output: Path = arguments.output.absolute()
    with tempfile.TemporaryDirectory(prefix=".multiqc-", dir=output.parent) as folder:
        status = report(arguments.sample, arguments.files, output, Path(folder).absolute())
    if status:
        sys.stderr.write(f"multiqc ended with status {status}; its own message is above\n")
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
