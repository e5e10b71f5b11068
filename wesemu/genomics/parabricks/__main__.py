"""Run one step in the current directory: `python -m wesemu.genomics.parabricks fq2bam|call`.

Exit status: 0; 65 bad reads (`--error` holds the message); the status of pbrun if it failed; 78 if
it was not started (`--fault` holds the advice).
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from wesemu.errors import InvalidRequest
from wesemu.genomics.align import BAD_INPUT, Counting, check_lanes, describe_fault
from wesemu.genomics.mappers import Lane
from wesemu.genomics.parabricks.container import Running
from wesemu.genomics.parabricks.failures import CURES, StepFailure
from wesemu.genomics.parabricks.preflight import ParabricksOptions, options_from
from wesemu.genomics.parabricks.step import (
    FASTA_INDEX,
    Failed,
    NodeFacts,
    Step,
    StepResources,
    call,
    fastq_lines,
    fq2bam,
    lay_out,
    prepare,
    scratch,
    variants_file,
)
from wesemu.genomics.read_groups import parse_read_group

NOT_STARTED = 78


class ReadCheck:
    """Counts the reads in a thread, and stops the watched processes at the first bad read."""

    def __init__(self, lanes: Sequence[Lane], quality_offset: int | None) -> None:
        self._processes: list[Running] = []
        self.counting = Counting(lanes, quality_offset, self._stop)

    def watch(self, running: Running) -> None:
        self._processes.append(running)
        if self.counting.error is not None:  # found before the process started
            running.stop()

    def _stop(self) -> None:
        for running in self._processes:
            running.stop()


def map_reads(arguments: argparse.Namespace) -> None:
    """Map, sort and mark duplicates. Raises InputError for bad reads, Failed."""
    options, known = _options(arguments)
    lanes = [
        Lane(_resolved(first), second and _resolved(second), parse_read_group(group).line)
        for (first, second), group in zip(arguments.reads, arguments.read_group, strict=True)
    ]
    check_lanes(lanes, arguments.quality_offset)
    files = [Path(file) for lane in lanes for file in (lane.first, lane.second or lane.first)]
    with scratch("fq2bam", options) as (here, temporary):
        machine = prepare(options, arguments.gpus, known, files, temporary)
        reference = lay_out(arguments.reference, here / "reference")
        bam, metrics = here / "aligned.bam", here / "duplicates.txt"
        fastq_list = here / "lanes.txt"
        lines = fastq_lines(lanes, machine.version)
        if lines is not None:
            fastq_list.write_text(lines)
        resources = _resources(arguments, options, temporary, len(machine.devices))
        step = Step("fq2bam", options, machine, resources, tuple(files))
        check = ReadCheck(lanes, arguments.quality_offset)
        try:
            step.run(
                lambda resources: fq2bam(
                    str(reference),
                    lanes,
                    str(bam),
                    resources,
                    metrics=str(metrics) if arguments.metrics else None,
                    optical_distance=arguments.optical_distance,
                    fastq_list=None if lines is None else str(fastq_list),
                ),
                check.watch,
            )
        except Failed as error:
            # pbrun may have failed because of bad reads: then their fault is the one to report
            if error.failure.kind in ("other", "crash") or check.counting.error is not None:
                check.counting.finish()
            raise
        counts = check.counting.finish()
        _move(bam, arguments.bam)
        _move(Path(f"{bam}.bai"), Path(f"{arguments.bam}.bai"))
        if arguments.metrics:
            _move(metrics, arguments.metrics)
    arguments.counts.write_text(json.dumps(counts.report(), indent=1) + "\n", encoding="utf-8")


def call_variants(arguments: argparse.Namespace) -> None:
    """Call variants. Raises Failed."""
    options, known = _options(arguments)
    name = _step_name(arguments)
    with scratch(name, options) as (here, temporary):
        machine = prepare(options, arguments.gpus, known, (), temporary)
        reference = lay_out(arguments.reference, here / "reference", [FASTA_INDEX])
        targets = arguments.targets and str(arguments.targets.resolve())
        gvcf = bool(arguments.gvcf)
        gpus = len(machine.devices)
        out = variants_file(arguments.caller, machine.version, gpus, gvcf=gvcf, targets=targets)
        step = Step(
            name,
            options,
            machine,
            _resources(arguments, options, temporary, gpus),
            tuple(file for file in (arguments.bam, arguments.targets) if file),
        )
        step.run(
            lambda resources: call(
                arguments.caller,
                str(reference),
                str(arguments.bam.resolve()),
                str(here / out),
                resources,
                gvcf=gvcf,
                ploidy=arguments.ploidy,
                targets=targets,
            ),
            lambda running: None,
        )
        if arguments.gvcf:
            _move(here / out, arguments.gvcf)
        if arguments.vcf:
            _move(here / out.replace(".g.vcf", ".vcf"), arguments.vcf)


def _step_name(arguments: argparse.Namespace) -> str:
    if arguments.step == "fq2bam":
        return "fq2bam"
    return f"{arguments.caller}{'' if arguments.vcf else '-gvcf'}"


def _remove_fault(fault: Path, name: str) -> None:
    """Remove the fault of an earlier attempt at this step; the fault of another step stays."""
    if fault.is_file() and json.loads(fault.read_text()).get("step") == name:
        fault.unlink()


def _move(made: Path, target: Path) -> None:
    """Move a result of pbrun to `target`. Raises Failed if it is missing or empty."""
    if not made.is_file() or not made.stat().st_size:
        files = ", ".join(sorted(path.name for path in made.parent.iterdir() if path.is_file()))
        raise Failed(
            StepFailure(
                "other",
                f"pbrun succeeded but wrote no {made.name} (it wrote: {files or 'nothing'})",
                CURES["other"],
            )
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    made.replace(target)


def _resolved(path: str) -> str:
    return str(Path(path).resolve())


def _options(arguments: argparse.Namespace) -> tuple[ParabricksOptions, NodeFacts]:
    options = options_from(json.loads(arguments.settings))
    return options, NodeFacts(arguments.gpu_memory_mb, arguments.gpu_driver)


def _resources(
    arguments: argparse.Namespace, options: ParabricksOptions, temporary: Path, gpus: int
) -> StepResources:
    return StepResources(
        gpus=gpus,
        threads=arguments.threads,
        temporary=str(temporary),
        memory_limit=options.memory_limit,
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="wesemu.genomics.parabricks", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    mapping = steps.add_parser("fq2bam")
    mapping.add_argument("--reads", nargs="+", action="append", required=True)
    mapping.add_argument("--read-group", action="append", required=True, metavar="@RG…")
    mapping.add_argument("--quality-offset", type=int)
    mapping.add_argument("--optical-distance", type=int, default=0)
    mapping.add_argument(
        "--metrics",
        type=Path,
        help="file for figures of the duplicates, which are not marked without it",
    )
    mapping.add_argument("--counts", type=Path, required=True, help="JSON: reads and bases")
    mapping.add_argument("--error", type=Path, required=True, help="JSON, on bad input only")
    calling = steps.add_parser("call")
    calling.add_argument("--caller", choices=("haplotypecaller", "deepvariant"), required=True)
    for kind in ("--vcf", "--gvcf"):
        calling.add_argument(kind, type=Path, help="compressed if pbrun writes it so")
    calling.add_argument("--ploidy", type=int, default=2)
    calling.add_argument("--targets", type=Path, help="BED")
    for step in (mapping, calling):
        step.add_argument("--bam", type=Path, required=True)
        step.add_argument("--reference", type=Path, required=True)
        step.add_argument("--settings", default="{}", help="JSON: runtime, image, …")
        step.add_argument("--gpus", type=int, default=1)
        step.add_argument("--gpu-memory-mb", type=int)
        step.add_argument("--gpu-driver")
        step.add_argument("--threads", type=int, default=1)
        step.add_argument("--fault", type=Path, required=True, help="JSON, on a failure of pbrun")
    arguments = parser.parse_args(argv)
    if arguments.step == "fq2bam":
        arguments.reads = [(*files, None)[:2] for files in arguments.reads]
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    arguments = _arguments(argv)
    name = _step_name(arguments)
    _remove_fault(arguments.fault, name)
    try:
        if arguments.step == "fq2bam":
            arguments.error.unlink(missing_ok=True)
            map_reads(arguments)
        else:
            call_variants(arguments)
    except InvalidRequest as error:
        fault = describe_fault(error)
        target = arguments.error if arguments.step == "fq2bam" else arguments.fault
        if target == arguments.fault:  # a calling step has no reads: the reference is at fault
            fault |= {"hint": CURES["index"], "kind": "index", "step": name}
        target.write_text(json.dumps(fault) + "\n", encoding="utf-8")
        sys.stderr.write(f"parabricks: {error.message}\n")
        return BAD_INPUT
    except Failed as error:
        failure = error.failure
        fault = {
            "message": failure.message,
            "hint": failure.hint,
            "kind": failure.kind,
            "step": name,
        }
        arguments.fault.write_text(json.dumps(fault) + "\n", encoding="utf-8")
        sys.stderr.write(f"parabricks: {failure.message}\nparabricks: {failure.hint}\n")
        return failure.status or NOT_STARTED
    return 0


if __name__ == "__main__":
    # does not wait for the thread that reads
    status = main()
    sys.stderr.flush()
    os._exit(status)
