"""`wesemu run`: submit jobs with the flags of `ags remote run`."""

from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wesemu.cli.output import DEFAULT_SERVER, Server, Token, path_option
from wesemu.cli.samples import required

if TYPE_CHECKING:
    from wesemu.client import AsyncClient


_DEFAULT_REFERENCE = "hg19"
_FIRST = "Key of the first mates' FASTQ, or of a folder of lanes."
_SECOND = "Key of the second mates' FASTQ, or the same folder."

Bucket = Annotated[str, typer.Option(help="Bucket of the reads and the results.")]
Reference = Annotated[
    str | None,
    typer.Option(
        help="hg19, hg38, a registered name, or the key of a FASTA.",
        show_default=_DEFAULT_REFERENCE,
    ),
]
ReferenceGroup = Annotated[
    str | None, typer.Option(help="The read group, as an @RG line.", metavar="@RG…")
]
Service = Annotated[
    Literal["s", "g", "p", "n", "silver", "gold", "platinum", "normal"],
    typer.Option(
        help="Service level: silver, gold, platinum, or normal (no promise).", case_sensitive=False
    ),
]
Region = Annotated[str, typer.Option(help="Region of the bucket in the cloud; no effect here.")]
Node = Annotated[
    Literal["auto", "cpu", "cuda"] | None,
    typer.Option(
        help="Run the job on the CPU or on GPUs.", show_default="the setting of the server"
    ),
]
Gpus = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Maximum number of GPUs in use; implies --node cuda.",
        show_default="one for each task",
        metavar="N",
    ),
]
QualityOffset = Annotated[
    Literal["33", "64"] | None,
    typer.Option(
        help="Quality offset of the FASTQ: 64 before Illumina 1.8.",
        show_default="33, unless the reads look like 64",
    ),
]
CramVersion = Annotated[
    Literal["3.0", "3.1"] | None,
    typer.Option(help="CRAM version, if --output-bam names a .cram.", show_default="3.0"),
]
Watch = Annotated[
    bool, typer.Option("--watch", help="Wait for the end; exit with status 1 if the job fails.")
]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Submit a job, like `ags remote run`.")
    group.command("mapping")(mapping)
    group.command("wgs")(wgs)
    app.add_typer(group, name="run", rich_help_panel="Jobs")


def mapping(
    bucket: Bucket,
    fastq1: Annotated[str, typer.Option(help=_FIRST, metavar="KEY")],
    fastq2: Annotated[str, typer.Option(help=_SECOND, metavar="KEY")],
    output_bam: Annotated[str, typer.Option(help="Key of the BAM to write.", metavar="KEY")],
    reference: Reference = None,
    markdup: Annotated[
        Literal["true", "false"], typer.Option(help="Mark PCR duplicates.")
    ] = "true",
    reference_group: ReferenceGroup = None,
    service: Service = "s",
    region: Region = "cn-local",
    quality_offset: QualityOffset = None,
    cram_version: CramVersion = None,
    node: Node = None,
    gpus: Gpus = None,
    watch: Watch = False,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Align paired reads, sort them, mark duplicates; write a BAM and its index."""
    fields = {
        "mapping_oss_region": region,
        "mapping_bucket_name": bucket,
        "mapping_fastq_first_name": fastq1,
        "mapping_fastq_second_name": fastq2,
        "mapping_reference_file": reference,
        "mapping_reference_group": reference_group,
        "mapping_bam_file_name": output_bam,
        "mapping_mark_dup": markdup,
        "mapping_service": service,
        "wesemu_quality_offset": quality_offset,
        "wesemu_cram_version": cram_version,
        "wesemu_node": node,
        "wesemu_gpus": gpus,
    }
    _send(server, token, "mapping", fields, watch=watch)


def wgs(
    bucket: Bucket,
    fastq1: Annotated[
        str | None, typer.Option(help=f"{_FIRST} Required without --samples.", metavar="KEY")
    ] = None,
    fastq2: Annotated[
        str | None, typer.Option(help=f"{_SECOND} Required without --samples.", metavar="KEY")
    ] = None,
    output_vcf: Annotated[
        str | None,
        typer.Option(
            help="Key of the VCF to write: .vcf.gz or .vcf. Required without --output-gvcf.",
            metavar="KEY",
        ),
    ] = None,
    output_bam: Annotated[
        str | None, typer.Option(help="Key of the BAM to write.", metavar="KEY")
    ] = None,
    output_gvcf: Annotated[
        str | None,
        typer.Option(
            help="Key of the gVCF to write: .g.vcf.gz, .gvcf.gz, .g.vcf or .gvcf.", metavar="KEY"
        ),
    ] = None,
    reference: Reference = None,
    reference_group: ReferenceGroup = None,
    service: Service = "s",
    region: Region = "cn-local",
    quality_offset: QualityOffset = None,
    cram_version: CramVersion = None,
    ploidy: Annotated[
        str | None,
        typer.Option(
            help="Ploidy, or the key of a ploidy file of bcftools.",
            metavar="N|KEY",
            show_default="2",
        ),
    ] = None,
    sex: Annotated[
        str | None, typer.Option(help="Sex to select in the ploidy file.", metavar="SEX")
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(help="Key of a BED file with the intervals to call.", metavar="KEY"),
    ] = None,
    node: Node = None,
    gpus: Gpus = None,
    samples: Annotated[
        Path | None,
        path_option(
            help="A CSV with sample, lane, fastq_1, fastq_2: one run for each sample. Outputs have "
            "{sample} in their keys.",
            metavar="FILE",
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            help="The tag `group` of the runs of --samples.", show_default="the file's name"
        ),
    ] = None,
    watch: Watch = False,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Map reads and call variants; write a VCF of SNPs and indels, a gVCF, or both."""
    if output_vcf is None and output_gvcf is None:
        raise typer.BadParameter("name --output-vcf, --output-gvcf or both")
    if samples is not None:
        if fastq1 or fastq2 or reference_group:
            raise typer.BadParameter("--samples excludes --fastq1, --fastq2 and --reference-group")
        common = {
            "reference": reference or _DEFAULT_REFERENCE,
            "service": service,
            "quality_offset": None if quality_offset is None else int(quality_offset),
            "cram_version": cram_version,
            "ploidy": ploidy,
            "sex": sex,
            "targets": targets,
        }
        outputs = {"vcf": output_vcf, "gvcf": output_gvcf, "bam": output_bam}
        place = {"node": node, "gpus": gpus}
        _send_samples(server, token, samples, bucket, common, outputs, place, group, watch=watch)
        return
    fields = {
        "wgs_oss_region": region,
        "wgs_bucket_name": bucket,
        "wgs_fastq_first_name": required(fastq1, "--fastq1"),
        "wgs_fastq_second_name": required(fastq2, "--fastq2"),
        "wgs_reference_file": reference,
        "wgs_reference_group": reference_group,
        "wgs_vcf_file_name": output_vcf,
        "wgs_gvcf_file_name": output_gvcf,
        "wgs_bam_file_name": output_bam,
        "wgs_service": service,
        "wesemu_quality_offset": quality_offset,
        "wesemu_cram_version": cram_version,
        "wesemu_ploidy": ploidy,
        "wesemu_sex": sex,
        "wesemu_targets": targets,
        "wesemu_node": node,
        "wesemu_gpus": gpus,
    }
    _send(server, token, "wgs", fields, watch=watch)


def _send_samples(
    server: str,
    token: str | None,
    sheet: Path,
    bucket: str,
    common: Mapping[str, str | int | None],
    outputs: Mapping[str, str | None],
    place: Mapping[str, str | int | None],
    group: str | None,
    *,
    watch: bool,
) -> None:
    from wesemu.cli.output import ExitStatus
    from wesemu.cli.remote import call
    from wesemu.cli.samples import locate, plan_runs, read_sheet, send_runs

    ploidy = common["ploidy"]
    located = {
        name: locate(bucket, str(common[name])) for name in ("reference", "targets") if common[name]
    }
    if ploidy and not str(ploidy).isdecimal():
        located["ploidy"] = locate(bucket, str(ploidy))
    runs = plan_runs(read_sheet(sheet), bucket, {**common, **located}, outputs)
    engine = {name: str(value) for name, value in place.items() if value is not None}
    flags = {name: f"--{name.replace('_', '-')}" for name in common}
    flags |= {name: f"--output-{name}" for name in outputs}

    def act(client: "AsyncClient") -> "Coroutine[None, None, bool]":
        return send_runs(client, runs, engine, group or sheet.stem, watch=watch)

    if not call(server, token, act, flags):
        raise typer.Exit(ExitStatus.FAILED)


_FLAGS = {
    "oss_region": "--region",
    "bucket_name": "--bucket",
    "fastq_first_name": "--fastq1",
    "fastq_second_name": "--fastq2",
    "fastq_path": "--fastq1",
    "reference_file": "--reference",
    "reference_group": "--reference-group",
    "bam_file_name": "--output-bam",
    "vcf_file_name": "--output-vcf",
    "gvcf_file_name": "--output-gvcf",
    "mark_dup": "--markdup",
    "service": "--service",
}
_OWN_FLAGS = {
    "wesemu_quality_offset": "--quality-offset",
    "wesemu_cram_version": "--cram-version",
    "wesemu_ploidy": "--ploidy",
    "wesemu_sex": "--sex",
    "wesemu_targets": "--targets",
    "wesemu_node": "--node",
    "wesemu_gpus": "--gpus",
}


def flags_of(kind: str) -> dict[str, str]:
    """Return the flags for the fields of a `mapping` or `wgs` job, as errors name them."""
    return {f"{kind}_{field}": flag for field, flag in _FLAGS.items()} | _OWN_FLAGS


def _send(
    server: str,
    token: str | None,
    kind: str,
    fields: Mapping[str, str | int | None],
    *,
    watch: bool,
) -> None:
    import json

    from wesemu import __version__
    from wesemu.cli.output import ExitStatus, print_result
    from wesemu.cli.remote import call, find
    from wesemu.cli.remote import watch as follow
    from wesemu.client import AsyncClient

    sent = {name: str(value) for name, value in fields.items() if value is not None}
    flags = flags_of(kind)
    reference = f"{kind}_reference_file"
    if reference not in sent:
        sent[reference] = _DEFAULT_REFERENCE
        flags[reference] = f"--reference (not given, so {_DEFAULT_REFERENCE})"
    body = {"workflow_type": kind, "cli_version": f"wesemu {__version__}", **sent}

    async def act(client: AsyncClient) -> bool:
        name = await client.ags.start(body)
        print_result(json.dumps({"JobName": name}))
        if not watch:
            return True
        target = await find(client, name)
        return await follow(client, target.run.id, name)

    if not call(server, token, act, flags):
        raise typer.Exit(ExitStatus.FAILED)
