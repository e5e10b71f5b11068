"""The page of variants and reads: calls of one region, comparison with a truth set, the viewer.

The viewer is igv.js. It reads results and reference from this server by ranges.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from wesemu.dashboard import viewer_script
from wesemu.dashboard.pages import WebPage
from wesemu.errors import InputError, InvalidRequest, NotFound, WesemuError
from wesemu.genomics.compare import HaplotypeChange, anchored, verdicts
from wesemu.runs.model import JsonObject, JsonValue, Run
from wesemu.runs.run_directory import Workspace, read_regular
from wesemu.storage.buckets import Buckets, parse

_PAGE = 100
_SCANNED = 50_000
"""Records that one page reads at most; the next page continues there."""

_TRUTH = "truth.vcf"
_LARGEST_VCF = 64 << 20
_LARGEST_TRACK = 4 << 20
_LARGEST_REFERENCE = 128 << 20
_MOST_DIFFERENCES = 200
_AROUND = 40
"""Base pairs that the viewer shows on either side of a variant."""

_ERRORS_ONLY = 1
"""htslib's level: without it, unusual headers fill the server's log."""

_KINDS = ("snp", "indel", "other")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which calls a page shows. `start` is 0-based; `quality` is the least QUAL."""

    contig: str = ""
    start: int = 0
    kind: str = ""
    quality: float = 0.0

    def url(self, run: Run, **changed: str) -> str:
        values = {
            "contig": self.contig,
            "start": str(self.start) if self.start else "",
            "kind": self.kind,
            "quality": f"{self.quality:.15g}" if self.quality else "",
        }
        query = urlencode({name: value for name, value in (values | changed).items() if value})
        return f"/ui/runs/{run.id}/variants?{query}"


def page(run: Run, workspace: Workspace, buckets: Buckets, query: Mapping[str, str]) -> WebPage:
    """Return the calls that match the query, and the viewer's configuration.

    Raises InvalidRequest for a bad filter or an unknown contig.
    """
    wanted = _filter(query)
    calls = output_file(run, workspace, "vcf")
    content: dict[str, object] = {
        "kind": wanted.kind,
        "quality": wanted.quality,
        "contig": wanted.contig,
        "kinds": list(_KINDS),
        "calls": [],
        "contigs": [],
        "next": None,
        "has_calls": calls is not None,
        "truth": None,
        "viewer": _viewer(run, workspace, buckets, query.get("locus", "")),
        "viewer_command": None if viewer_script.SCRIPT.exists() else viewer_script.COMMAND,
    }
    if calls is not None:
        content |= _calls(calls, wanted, run)
        content["truth"] = _differences(run, workspace, calls, buckets)
    return WebPage("variants.html", f"{run.handle}: variants and reads", content)


def reference_file(run: Run, workspace: Workspace) -> Path | None:
    """Return the indexed FASTA of a bundled pipeline's run; None if there is none (yet)."""
    if not run.workflow:
        return None
    import yaml

    try:
        config = yaml.safe_load(read_regular(workspace.config))
    except (OSError, yaml.YAMLError):
        return None
    named = config.get("reference") if isinstance(config, dict) else None
    if not isinstance(named, str):
        return None
    fasta = Path(named)
    return fasta if fasta.is_file() and Path(f"{named}.fai").is_file() else None


def _filter(query: Mapping[str, str]) -> Filter:
    kind = query.get("kind", "")
    if kind and kind not in _KINDS:
        raise InvalidRequest(f"{kind[:40]!r} is not a kind of variant", field="kind")
    try:
        start = int(query.get("start") or 0)
        quality = float(query.get("quality") or 0)
    except ValueError as error:
        raise InvalidRequest("start and quality are numbers") from error
    if not math.isfinite(quality):
        raise InvalidRequest("quality is not a number", field="quality")
    if not 0 <= start < 1 << 40:
        raise InvalidRequest("start is not a position", field="start")
    return Filter(query.get("contig", ""), start, kind, quality)


def output_file(run: Run, workspace: Workspace, name: str) -> Path | None:
    """Return the file of the output `name`, for example `vcf`, of a bundled pipeline's run.

    A user's own workflow may call anything a VCF, so htslib must not open its outputs here.
    """
    if not run.workflow:
        return None
    found = next((output for output in run.outputs if output.name == name), None)
    path = None if found is None else workspace.outputs / found.path
    return path if path is not None and path.is_file() else None


def _calls(path: Path, wanted: Filter, run: Run) -> JsonObject:
    """Return the calls of one page. Raises NotFound if the VCF cannot be read."""
    try:
        return _read_calls(path, wanted, run)
    except (OSError, ValueError) as error:
        reason = str(error).replace(str(path), path.name)
        raise NotFound(f"the calls of the run {run.id} cannot be read: {reason}") from error


def _read_calls(path: Path, wanted: Filter, run: Run) -> JsonObject:
    import pysam

    pysam.set_verbosity(_ERRORS_ONLY)
    with pysam.VariantFile(str(path)) as file:
        contigs = [str(name) for name in file.header.contigs]
        if wanted.contig and wanted.contig not in contigs:
            raise InvalidRequest(
                f"the reference has no contig {wanted.contig[:60]!r}", field="contig"
            )
        rows: list[JsonValue] = []
        following: str | None = None
        last: tuple[str, int] | None = None
        for number, record in enumerate(_records(file, contigs, wanted)):
            # all calls of one position are on one page: the next page begins at a position
            previous, last = last, (record.contig, record.start)
            if (len(rows) >= _PAGE or number >= _SCANNED) and last != previous:
                following = wanted.url(run, contig=record.contig, start=str(record.start))
                break
            row = _row(record, run, wanted)
            if row is not None:
                rows.append(row)
    return {"calls": rows, "contigs": [*contigs[:1000]], "next": following}


def _records(file: Any, contigs: list[str], wanted: Filter) -> Iterator[Any]:
    """Yield the records from the filter's position on, by the index where the file has one."""
    if not wanted.contig:
        yield from file
        return
    if file.index is None:
        yield from _from(file, contigs, wanted)
        return
    later = contigs[contigs.index(wanted.contig) :]
    for contig in later:
        if contig not in file.index:
            continue
        start = wanted.start if contig == wanted.contig else 0
        # fetch() also returns records that begin before `start` and overlap it
        yield from (record for record in file.fetch(contig, start) if record.start >= start)


def _from(file: Any, contigs: list[str], wanted: Filter) -> Iterator[Any]:
    places = {contig: place for place, contig in enumerate(contigs)}
    first = places[wanted.contig]
    for record in file:
        place = places.get(record.contig, -1)  # a header may lack contigs
        if place > first or (place == first and record.start >= wanted.start):
            yield record


def _row(record: Any, run: Run, wanted: Filter) -> JsonObject | None:
    """Return the row of a record, or None if the filter leaves it out."""
    kind = _kind(record.ref or "", record.alts or ())
    if wanted.kind and kind != wanted.kind:
        return None
    if wanted.quality and (record.qual is None or record.qual < wanted.quality):
        return None
    sample = record.samples[0] if len(record.samples) else {}
    depth = _value(sample, "DP")
    return {
        "contig": record.contig,
        "position": record.pos,
        "ref": record.ref,
        "alt": ",".join(record.alts or ()),
        "kind": kind,
        "quality": round(record.qual, 1) if _is_finite(record.qual) else None,
        "filter": ";".join(record.filter.keys()) or None,
        "genotype": _genotype(sample),
        "depth": _number(_value(record.info, "DP") if depth is None else depth),
        "allele_depths": _numbers(_value(sample, "AD")),
        "locus": wanted.url(run, locus=_locus(record.contig, record.pos, len(record.ref or ""))),
    }


def _kind(ref: str, alts: tuple[str, ...]) -> str:
    if not alts or not all(alt.isalpha() for alt in alts):  # symbols, breakends, `*`
        return "other"
    return "snp" if all(len(alt) == len(ref) for alt in alts) else "indel"


def _genotype(sample: Any) -> str | None:
    alleles = _value(sample, "GT")
    if alleles is None:
        return None
    joint = "|" if getattr(sample, "phased", False) else "/"
    return joint.join("." if allele is None else str(allele) for allele in alleles)


def _value(fields: Any, name: str) -> Any:
    """Return a field of INFO or of a sample, None if the record or the header lacks it."""
    try:
        return fields[name]
    except (KeyError, ValueError):  # ValueError: pysam, if the header lacks it
        return None


def _is_finite(quality: float | None) -> bool:
    return quality is not None and math.isfinite(quality)


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _numbers(values: Any) -> str | None:
    if not isinstance(values, tuple):
        return None
    return ",".join("." if value is None else str(value) for value in values)


def _locus(contig: str, position: int, length: int = 1) -> str:
    """Return the region that the viewer shows for a 1-based position."""
    return f"{contig}:{max(1, position - _AROUND)}-{position + max(length, 1) + _AROUND}"


def _differences(
    run: Run, workspace: Workspace, calls: Path, buckets: Buckets
) -> JsonObject | None:
    """Compare the calls with the `truth.vcf` of a fixture, which lies beside the reads.

    Return None without that file, or if the genome is too large to compare for a page.
    """
    truth, fasta = _truth(run, buckets), reference_file(run, workspace)
    if truth is None or fasta is None:
        return None
    return compare_calls(CallSet(run, truth), CallSet(run, calls), fasta)


@dataclass(frozen=True, slots=True)
class CallSet:
    """Calls in a VCF; a click on one of them leads to the viewer of `run`."""

    run: Run
    path: Path


def compare_calls(
    truth: CallSet, calls: CallSet, fasta: Path, *, min_quality: float = 20.0
) -> JsonObject | None:
    """Compare two sets of calls by genotype, whatever their notation; `fasta` is the reference.

    `missed` are in `truth` only, `false` in `calls` only; both lists have `_MOST_DIFFERENCES` rows
    at most. Calls below `min_quality` are left out. None if a file is too large to compare while a
    page waits.
    """
    if fasta.stat().st_size > _LARGEST_REFERENCE:
        return None
    if max(truth.path.stat().st_size, calls.path.stat().st_size) > _LARGEST_VCF:
        return None
    missed: list[JsonValue] = []
    false: list[JsonValue] = []
    numbers = {"found": 0, "missed_alleles": 0, "false_alleles": 0, "wrong_genotypes": 0}
    try:
        for contig, sequence, verdict in verdicts(
            truth.path, calls.path, fasta, min_quality=min_quality
        ):
            wrong = {change[:3] for change in verdict.wrong_genotypes()}
            numbers["found"] += len(verdict.truth_matched)
            numbers["missed_alleles"] += len(verdict.missed)
            numbers["false_alleles"] += len(verdict.invented)
            numbers["wrong_genotypes"] += len(wrong)
            for run, changes, rows in (
                (truth.run, verdict.missed, missed),
                (calls.run, verdict.invented, false),
            ):
                rows += [
                    _difference(run, contig, sequence, change, wrong=change[:3] in wrong)
                    for change in islice(changes, _MOST_DIFFERENCES - len(rows))
                ]
    except InputError as error:
        return {"error": error.message}
    return {**numbers, "missed": missed, "false": false, "error": None}


def _difference(
    run: Run, contig: str, sequence: str, change: HaplotypeChange, *, wrong: bool
) -> JsonObject:
    start, ref, alt = anchored(sequence, change.start, change.ref, change.alt)
    return {
        "contig": contig,
        "position": start + 1,
        "ref": ref,
        "alt": alt,
        "copies": change.copies,
        "wrong_genotype": wrong,
        "locus": Filter().url(run, locus=_locus(contig, start + 1, len(ref))),
    }


def _truth(run: Run, buckets: Buckets) -> Path | None:
    url = _truth_url(run)
    path = None if url is None else _object(url, buckets)
    return path if path is not None and path.stat().st_size <= _LARGEST_VCF else None


def _truth_url(run: Run) -> str | None:
    """Return where a fixture has its truth: beside the reads. None for reads in no bucket."""
    reads = run.request.params.get("reads")
    first = reads[0] if isinstance(reads, list) and reads else None
    url = first.get("first") if isinstance(first, dict) else None
    if not isinstance(url, str) or not url.startswith("oss://"):
        return None
    bucket, key = parse(url)
    beside = f"{key.rpartition('/')[0]}/{_TRUTH}".lstrip("/")
    return f"oss://{bucket}/{beside}"


def _object(url: str, buckets: Buckets) -> Path | None:
    try:
        return buckets.existing_file(url)
    except WesemuError:
        return None


def _viewer(run: Run, workspace: Workspace, buckets: Buckets, locus: str) -> JsonObject | None:
    """Return the configuration of igv.js; None without a reference or anything to show."""
    if reference_file(run, workspace) is None or not viewer_script.SCRIPT.exists():
        return None
    results: list[JsonValue] = [*_tracks(run)]
    if not results:
        return None
    tracks = [*results, *_object_tracks(run, buckets)]
    base = f"/ui/runs/{run.id}/reference"
    config: JsonObject = {
        "reference": {
            "id": "reference",
            "name": "reference",
            "fastaURL": f"{base}/genome.fa",
            "indexURL": f"{base}/genome.fa.fai",
        },
        "tracks": tracks,
        "loadDefaultGenomes": False,
        "showChromosomeWidget": True,
    }
    return config | ({"locus": locus} if locus else {})


def _tracks(run: Run) -> Iterator[JsonObject]:
    outputs = {output.name: output for output in run.outputs}
    kinds = {
        "vcf": ("variant", "vcf", "Calls"),
        "gvcf": ("variant", "vcf", "gVCF"),
        "bam": ("alignment", "bam", "Reads"),
        "cram": ("alignment", "cram", "Reads"),
    }
    for name, (kind, form, title) in kinds.items():
        output, index = outputs.get(name), outputs.get(f"{name}_index")
        if output is None:
            continue
        form = "cram" if output.path.endswith(".cram") else form
        track: JsonObject = {
            "type": kind,
            "format": form,
            "name": title,
            "url": f"/ui/runs/{run.id}/outputs/{quote(output.path)}",
        }
        if index is not None:
            track["indexURL"] = f"/ui/runs/{run.id}/outputs/{quote(index.path)}"
        elif kind == "alignment":
            continue  # unindexed reads would be loaded whole
        if kind == "alignment":
            track["height"] = 400
        yield track


def _object_tracks(run: Run, buckets: Buckets) -> Iterator[JsonObject]:
    """Yield the targets and the truth. They have no index, so the viewer loads them whole."""
    wanted = (
        ("annotation", "bed", "Targets", run.request.params.get("targets")),
        ("variant", "vcf", "Truth", _truth_url(run)),
    )
    for kind, form, title, url in wanted:
        if not isinstance(url, str) or not url.startswith("oss://"):
            continue
        path = _object(url, buckets)
        if path is None or path.stat().st_size > _LARGEST_TRACK:
            continue
        bucket, key = parse(url)
        yield {
            "type": kind,
            "format": form,
            "name": title,
            "url": f"/ui/objects/{quote(bucket)}/{quote(key)}",
            "indexed": False,
        }
