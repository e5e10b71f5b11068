"""Sample sheets of `wesemu run wgs --samples`: CSV with sample, lane, fastq_1 and fastq_2.

The columns are those of nf-core. A sample with several rows has several lanes. The whole sheet is
checked before the first run is sent: first here, then by a dry run of every sample on the server.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import typer

from wesemu.cli.output import CommandRefused, ExitStatus
from wesemu.util.text import os_reason

if TYPE_CHECKING:
    from wesemu.client import AsyncClient
    from wesemu.runs.model import JsonObject

PLACEHOLDER = "{sample}"

_REQUIRED = ("sample", "fastq_1", "fastq_2")
_COLUMNS = (*_REQUIRED, "lane", "sex")
_IGNORED = ("patient", "status")
"""Columns of nf-core's sheets that mean nothing here."""

_NO_SEX = ("", "NA")
_SAMPLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class SheetLane:
    """One row: the keys or URLs of the two mates' files, and the sample's sex if it has one."""

    first: str
    second: str
    sex: str = ""


@dataclass(frozen=True, slots=True)
class SampleRun:
    """The run of one sample: the parameters of `wgs`."""

    sample: str
    params: "JsonObject"


def read_sheet(file: Path) -> dict[str, list[SheetLane]]:
    """Return the lanes of each sample, in the order of the sheet.

    Raise CommandRefused, which lists all errors with their lines.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            text = io.StringIO(opened.read(), newline="")  # a pipe cannot be read twice
        rows = csv.DictReader(text, skipinitialspace=True, delimiter=_delimiter(text))
        columns = [(name or "").strip() for name in rows.fieldnames or ()]
        rows.fieldnames = columns
        samples, errors = _read_rows(columns, [(rows.line_num, row) for row in rows])
    except UnicodeDecodeError as error:
        reason = "it is not UTF-8 text; save it as a CSV file in UTF-8"
        raise _refused(file, [reason]) from error
    except OSError as error:
        raise _refused(file, [os_reason(error)]) from error
    except csv.Error as error:
        raise _refused(file, [str(error)]) from error
    if not errors and not samples:
        errors.append("it has no samples")
    if errors:
        raise _refused(file, errors)
    return samples


def plan_runs(
    samples: Mapping[str, Sequence[SheetLane]],
    bucket: str,
    common: Mapping[str, str | int | None],
    outputs: Mapping[str, str | None],
) -> list[SampleRun]:
    """Return a run for each sample. `outputs` are keys with `{sample}` in place of the name.

    Values that are None are left out. If the ploidy is a file, each run has the sex of its sample,
    or that of `common`. Raise CommandRefused if two samples would have the same output, or if
    `common` has one sex for samples of several sexes.
    """
    sexes = _sexes(samples, common)
    for flag, key in outputs.items():
        if key is not None and PLACEHOLDER not in key and len(samples) > 1:
            raise CommandRefused(
                f"--output-{flag}: {key!r} is the same for all samples; write {PLACEHOLDER} where "
                "the name of the sample belongs",
                ExitStatus.USAGE,
            )
    runs = []
    for sample, lanes in samples.items():
        params: JsonObject = {name: value for name, value in common.items() if value is not None}
        params["sample"] = sample
        if sample in sexes:
            params["sex"] = sexes[sample]
        params["reads"] = [
            {"first": locate(bucket, lane.first), "second": locate(bucket, lane.second)}
            for lane in lanes
        ]
        for name, key in outputs.items():
            if key is not None:
                params[name] = locate(bucket, key.replace(PLACEHOLDER, sample))
        runs.append(SampleRun(sample, params))
    return runs


def _sexes(
    samples: Mapping[str, Sequence[SheetLane]], common: Mapping[str, str | int | None]
) -> dict[str, str]:
    """Return the sex of each sample that has one, if they select lines of a ploidy file."""
    sexes = {sample: lanes[0].sex for sample, lanes in samples.items() if lanes[0].sex}
    names = list(dict.fromkeys(sexes.values()))
    if "://" not in str(common.get("ploidy")):
        return {}
    if common.get("sex") is not None:
        if len(names) < 2:
            return {}
        raise CommandRefused(
            f"--sex: the samples of the sheet have the sexes {' and '.join(names)}; leave --sex "
            "out, and name the sexes in the ploidy file as in the sheet",
            ExitStatus.USAGE,
        )
    return sexes


async def send_runs(
    client: "AsyncClient",
    runs: Sequence[SampleRun],
    engine_parameters: Mapping[str, str],
    group: str,
    *,
    watch: bool,
) -> bool:
    """Check all runs, send them, and print one JSON line for each.

    Return whether all succeeded; True without `watch`. Raise CommandRefused if the server refuses
    one of them; then none is sent.
    """
    import json

    from wesemu.cli.output import print_result
    from wesemu.cli.remote import find
    from wesemu.cli.remote import watch as follow
    from wesemu.client import ClientError

    errors = []
    for run in runs:
        try:
            dry = {**engine_parameters, "dry_run": "true"}
            await client.wes.submit("wgs", run.params, engine_parameters=dry)
        except ClientError as error:
            if error.status is None:
                raise
            errors.append(f"{run.sample}: {error.message}")
    if errors:
        raise CommandRefused(_listed("nothing was sent; the server refuses", errors))
    sent = []
    for run in runs:
        tags = {"group": group, "sample": run.sample}
        run_id = await client.wes.submit(
            "wgs", run.params, tags=tags, engine_parameters=engine_parameters
        )
        print_result(json.dumps({"sample": run.sample, "run_id": run_id}))
        sent.append(run_id)
    if not watch:
        return True
    ended = [await follow(client, each, (await find(client, each)).name) for each in sent]
    return all(ended)


def locate(bucket: str, name: str) -> str:
    """Return the location of a key in the bucket; a URL is returned unchanged."""
    return name if "://" in name else f"oss://{bucket}/{name}"


def _delimiter(text: TextIO) -> str:
    """Return what separates the columns: spreadsheets also write semicolons or tabs."""
    header = text.readline()
    text.seek(0)
    if "," in header:
        return ","
    return next((each for each in (";", "\t") if each in header), ",")


def _read_rows(
    columns: Sequence[str], rows: Sequence[tuple[int, Mapping[str, str | None]]]
) -> tuple[dict[str, list[SheetLane]], list[str]]:
    errors = [f"the column {name} is missing" for name in _REQUIRED if name not in columns]
    unknown = [name for name in columns if name and name not in (*_COLUMNS, *_IGNORED)]
    errors += [f"the column {name!r} is unknown" for name in unknown]
    errors += [f"the column {name} is there twice" for name in _COLUMNS if columns.count(name) > 1]
    if errors:
        return {}, errors
    samples: dict[str, list[SheetLane]] = {}
    lanes: dict[tuple[str, str], int] = {}
    files: dict[str, int] = {}
    for line, row in rows:
        cells = {name: (row.get(name) or "").strip() for name in _COLUMNS}
        if not any(cells.values()):
            continue
        errors += [f"line {line}: {error}" for error in _row_errors(cells, row)]
        for name in ("fastq_1", "fastq_2"):
            if earlier := files.get(cells[name]):
                errors.append(f"line {line}: {cells[name]} is in line {earlier} already")
            if cells[name]:
                files[cells[name]] = line
        key = (cells["sample"], cells["lane"])
        if cells["lane"] and key in lanes:
            errors.append(f"line {line}: sample {key[0]} has lane {key[1]} in line {lanes[key]}")
        lanes[key] = line
        sex = "" if cells["sex"] in _NO_SEX else cells["sex"]
        of_sample = samples.setdefault(cells["sample"], [])
        if of_sample and of_sample[0].sex != sex:
            errors.append(f"line {line}: sample {key[0]} has another sex than in its first line")
        of_sample.append(SheetLane(cells["fastq_1"], cells["fastq_2"], sex))
    return samples, errors


def _row_errors(cells: Mapping[str, str], row: Mapping[str, object]) -> list[str]:
    errors = [f"{name} is empty" for name in _REQUIRED if not cells[name]]
    if cells["sample"] and not _SAMPLE.fullmatch(cells["sample"]):
        errors.append(f"{cells['sample'][:80]!r} is not a sample name; use letters, digits, ._-")
    if None in row or row.get(""):  # csv's key for cells beyond the header, and a nameless column
        errors.append("it has more cells than the header")
    return errors


def _refused(file: Path, errors: Sequence[str]) -> CommandRefused:
    return CommandRefused(_listed(f"--samples: {file}", errors), ExitStatus.USAGE)


def _listed(about: str, errors: Sequence[str]) -> str:
    return f"{about}: {errors[0]}" if len(errors) == 1 else "\n  ".join((f"{about}:", *errors))


def required(value: str | None, flag: str) -> str:
    """Return the value of a flag that is needed without --samples. Raise BadParameter."""
    if value is None:
        raise typer.BadParameter(f"Missing option '{flag}'")
    return value
