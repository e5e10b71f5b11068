"""Stands in for GATK 4; calls with bcftools."""

import sys
from pathlib import Path

from calls import BCFTOOLS, call, existing, indexed, new_vcf, pipe, strict


def parse(tool: str, words: list[str]):
    parser = strict(prog=tool)
    parser.add_argument("-R", type=indexed(".fai"), required=True)
    parser.add_argument("-L", type=existing)
    parser.add_argument("--sample-ploidy", choices=["1", "2", "4"], required=True)
    parser.add_argument("--tmp-dir", type=existing, required=True)
    parser.add_argument("--add-output-vcf-command-line", choices=["false"], required=True)
    parser.add_argument("-O", type=new_vcf, required=True)
    if tool == "HaplotypeCaller":
        parser.add_argument("-I", type=indexed(".bai"), required=True)
        parser.add_argument("--native-pair-hmm-threads", choices=["1"], required=True)
        parser.add_argument("-ERC", choices=["GVCF"])
    else:
        parser.add_argument("-V", type=indexed(".tbi"), required=True)
        parser.add_argument("--only-output-calls-starting-in-intervals", action="store_true")
    given = parser.parse_args(words)
    check_dictionary(given.R)
    return given


def check_dictionary(reference: Path) -> None:
    """GATK takes genome.dict for genome.fa, and refuses other contigs."""
    lines = reference.with_suffix(".dict").read_text().splitlines()
    fields = [line.split("\t") for line in lines if line.startswith("@SQ\t")]
    named = [(sequence[1][3:], sequence[2][3:]) for sequence in fields]
    fai = Path(f"{reference}.fai").read_text().splitlines()
    if named != [tuple(line.split("\t")[:2]) for line in fai] or "UR:" in "".join(lines):
        sys.exit(f"the dictionary of {reference} has {named}")


def main(words: list[str]) -> None:
    match words:
        case ["--version"]:
            print("Using GATK jar /opt/gatk.jar\nRunning:\n    java -jar /opt/gatk.jar --version")
            print("The Genome Analysis Toolkit (GATK) v4.5.0.0\nHTSJDK Version: 4.1.0")
        case ["--java-options", "-Xmx3500m -XX:ParallelGCThreads=1", "HaplotypeCaller", *rest]:
            given = parse("HaplotypeCaller", rest)
            call(given.R, given.I, given.L, "--gvcf 0" if given.ERC else "-v", given.O)
        case ["--java-options", "-Xmx3500m -XX:ParallelGCThreads=1", "GenotypeGVCFs", *rest]:
            given = parse("GenotypeGVCFs", rest)
            if bool(given.L) != given.only_output_calls_starting_in_intervals:
                sys.exit("calls beyond the slice, or none at all")
            pipe(f"""{BCFTOOLS} view -i 'TYPE!="ref"' -Oz -W=tbi -o {given.O} {given.V}""")
        case _:
            sys.exit(f"unknown: {words}")


if __name__ == "__main__":
    main(sys.argv[1:])
