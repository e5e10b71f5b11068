"""What a bundled pipeline makes, and where the caller wants it."""

from dataclasses import replace

from wesemu.errors import InvalidRequest
from wesemu.objects.buckets import Buckets
from wesemu.runs.ports import Publication
from wesemu.transfers.source import shown
from wesemu.workflows.elsewhere import Elsewhere, RemoteKey
from wesemu.workflows.params import MappingParams, WgsParams

_VCF_GZ = "results/calls.vcf.gz"
_VCF = "results/calls.vcf"
_GVCF_NAMES = (".gvcf", ".g.vcf", ".gvcf.gz", ".g.vcf.gz", ".vcf.gz")
_REPORTS = {"multiqc": "results/multiqc.html", "snakemake": "results/report.html"}


class Publications:
    """Names the results of requests. Errors carry the parameter's name."""

    def __init__(self, buckets: Buckets, elsewhere: Elsewhere) -> None:
        self._buckets = buckets
        self._elsewhere = elsewhere

    def of(self, params: MappingParams, *, is_short: bool = True) -> tuple[Publication, ...]:
        """`is_short`: every contig surely fits into BAI and TBI. If not, the index is whichever of
        these or CSI the run makes. Raises InvalidRequest, BucketNotFound."""
        wanted: list[Publication] = []
        if isinstance(params, WgsParams):
            wanted += self._variants(params, () if is_short else (".csi",))
        if params.bam or not isinstance(params, WgsParams):
            wanted += self._alignment(params, () if is_short else (".csi",))
        return (
            *wanted,
            Publication("summary", "results/summary.json", optional=True),
            Publication("flagstat", "results/flagstat.json"),
            Publication("stats", "results/stats.txt"),
            Publication("reads", "results/reads.json"),
            Publication("markdup", "results/markdup.json", optional=True),
            *(Publication(f"{name}_report", _REPORTS[name]) for name in params.chosen_reports),
        )

    def _alignment(self, params: MappingParams, other: tuple[str, ...]) -> list[Publication]:
        result = f"results/{params.alignment}"
        indexes = (".crai",) if result.endswith(".cram") else (".bai", *other)
        return self._with_index("bam", params.bam, (".bam", ".cram"), result, indexes)

    def _variants(self, params: WgsParams, other: tuple[str, ...]) -> list[Publication]:
        wanted = [Publication("variants", "results/variants.txt")]
        indexes = (".tbi", *other)
        if params.gvcf_file is not None:
            gvcf = f"results/{params.gvcf_file}"
            kept = indexes if gvcf.endswith(".gz") else ()
            wanted += self._with_index("gvcf", params.gvcf, _GVCF_NAMES, gvcf, kept)
        either = (".vcf.gz", ".vcf")
        if params.is_plain:
            return [*self._with_index("vcf", params.vcf, either, _VCF, ()), *wanted]
        return [*self._with_index("vcf", params.vcf, either, _VCF_GZ, indexes), *wanted]

    def _with_index(
        self,
        name: str,
        url: str | None,
        suffixes: tuple[str, ...],
        result: str,
        indexes: tuple[str, ...],
    ) -> list[Publication]:
        """The result and its index; of several indexes the one that there will be."""
        if url is not None and not url.lower().endswith(suffixes):
            raise InvalidRequest(
                f"{name}: {url[:80]!r} must end with {' or '.join(suffixes)}", field=name
            )
        wanted = [self._publication(name, result, url)]
        for suffix in indexes:
            index_url = None if url is None else url + suffix
            index = self._publication(f"{name}_index", result + suffix, index_url)
            wanted.append(replace(index, optional=len(indexes) > 1))
        return wanted

    def _publication(self, name: str, result: str, url: str | None) -> Publication:
        if url is None:
            return Publication(name, result)
        field = name.removesuffix("_index")
        if self._elsewhere.is_remote(url):
            return Publication(name, result, None, self._remote_target(url, field))
        return Publication(name, result, self._buckets.target(url, field=field), url)

    def _remote_target(self, url: str, field: str) -> str:
        """The location of a result in a remote bucket, as it is told."""
        remote = self._elsewhere.remote(url, field=field)
        if not isinstance(remote, RemoteKey) or remote.sha256 is not None:
            raise InvalidRequest(
                f"{shown(url)}: results go to buckets; write oss://<bucket>/<key>", field=field
            )
        if url.endswith("/"):
            raise InvalidRequest(f"{url} is a folder; name the file to write", field=field)
        return remote.bucket.shown(remote.key)
