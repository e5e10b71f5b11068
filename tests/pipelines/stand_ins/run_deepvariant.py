"""Stands in for run_deepvariant; calls with bcftools."""

import sys
from pathlib import Path

from calls import BCFTOOLS, call, existing, indexed, new_vcf, pipe, strict


def main(words: list[str]) -> None:
    if words == ["--version"]:
        print("DeepVariant version 1.6.1")
        return
    if any("=" not in word for word in words):
        sys.exit(f"flags are written --name=value: {words}")
    parser = strict(prog="run_deepvariant")
    parser.add_argument("--model_type", choices=["WGS"], required=True)
    parser.add_argument("--ref", type=indexed(".fai"), required=True)
    parser.add_argument("--reads", type=indexed(".bai"), required=True)
    parser.add_argument("--regions", type=existing)
    parser.add_argument("--num_shards", choices=["1"], required=True)
    parser.add_argument("--intermediate_results_dir", type=Path, required=True)
    parser.add_argument("--output_vcf", type=new_vcf, required=True)
    parser.add_argument("--output_gvcf", type=new_vcf)
    given = parser.parse_args(words)
    given.intermediate_results_dir.mkdir()
    called = given.intermediate_results_dir / "called.vcf.gz"
    call(given.ref, given.reads, given.regions, "-v", called)
    # as DeepVariant does, candidates that it holds for the reference's are in the VCF too
    pipe(
        f"{BCFTOOLS} filter -s RefCall -m+ -e 'QUAL<20' -S 0 -Oz -W=tbi"
        f" -o {given.output_vcf} {called}"
    )
    if given.output_gvcf:
        call(given.ref, given.reads, given.regions, "--gvcf 0", given.output_gvcf)


if __name__ == "__main__":
    main(sys.argv[1:])
