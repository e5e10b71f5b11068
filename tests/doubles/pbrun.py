"""A test double of `pbrun`: takes only what NVIDIA's reference of its version (4.8) lists, refuses
what contradicts itself, and does the work with this project's CPU tools.

Its messages are its own words, except where a line of the CUDA runtime or the kernel is known.
`PBRUN_DOUBLE_FAILURE` makes it fail: a key of FAILURES, after `:` perhaps the only step to fail
(`driver:haplotypecaller`); `by sample` takes the sample's name for the key. `PBRUN_DOUBLE_CALLS`
names a file that gets every command line.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from wesemu.genomics.fm_index import write_index
from wesemu.genomics.tools import resolve

VERSION = os.environ.get("PBRUN_DOUBLE_VERSION", "4.8.0-1")
RELEASE = tuple(map(int, VERSION.partition("-")[0].split(".")))
INDEXES = (".amb", ".ann", ".bwt", ".pac", ".sa")
GROUP_FIELDS = {"ID", "LB", "PL", "SM", "PU"}

# option: number of values; "*" may come more than once
COMMON = {"--ref": 1, "--num-gpus": 1, "--tmp-dir": 1, "--logfile": 1}
OPTIONS = {
    "fq2bam": {
        "--in-fq": 3,
        "--in-fq-list": 1,
        "--out-bam": 1,
        "--bwa-options": 1,
        "--no-markdups": 0,
        "--align-only": 0,
        "--out-duplicate-metrics": 1,
        "--optical-duplicate-pixel-distance": 1,
        "--low-memory": 0,
        "--memory-limit": 1,
        "--bwa-nstreams": 1,
        "--bwa-cpu-thread-pool": 1,
        "--gpusort": 0,
        "--gpuwrite": 0,
    },
    "haplotypecaller": {
        "--in-bam": 1,
        "--out-variants": 1,
        "--gvcf": 0,
        "--ploidy": 1,
        "--interval-file": 1,
        "--htvc-low-memory": 0,
        "--run-partition": 0,
        "--gpu-num-per-partition": 1,
    },
    "deepvariant": {
        "--in-bam": 1,
        "--out-variants": 1,
        "--gvcf": 0,
        "--interval-file": 1,
        "--mode": 1,
        "--num-streams-per-gpu": 1,
        "--run-partition": 0,
        "--gpu-num-per-partition": 1,
    },
}
SINCE = {"--in-fq-list": (4, 5, 0)}
REQUIRED = {
    "fq2bam": {"--ref", "--out-bam"},
    "haplotypecaller": {"--ref", "--in-bam", "--out-variants"},
    "deepvariant": {"--ref", "--in-bam", "--out-variants"},
}
REPEATED = {"--in-fq"}
NUMBERS_ONLY = {"--num-gpus", "--memory-limit", "--bwa-cpu-thread-pool", "--num-streams-per-gpu"}
SLIM = {"--low-memory", "--htvc-low-memory", "--num-streams-per-gpu"}

FAILURES = {
    "gpu_memory": (255, "CUDA error: cudaErrorMemoryAllocation: out of memory"),
    "gpu_memory_always": (255, "CUDA error: cudaErrorMemoryAllocation: out of memory"),
    "driver": (255, "CUDA driver version is insufficient for CUDA runtime version"),
    "no_gpu": (255, "cudaErrorNoDevice: no CUDA-capable device is detected"),
    "disk_full": (1, "sort: write error: No space left on device"),
    "index": (1, "double: genome.fa.bwt not found"),
    "host_memory": (-signal.SIGKILL, ""),
    "crash": (-signal.SIGSEGV, ""),
    "other": (3, "double: something that nobody has seen before"),
    "cut_bam": (0, ""),
    "hang": (0, ""),
}

Words = dict[str, list[list[str]]]


def refuse(message: str, status: int = 2) -> NoReturn:
    print(f"pbrun double: {message}", flush=True)
    sys.exit(status)


def main() -> None:
    words = sys.argv[1:]
    if words == ["version"]:
        print(f"pbrun: {VERSION}")
        return
    if os.environ.get("PBRUN_DOUBLE_CALLS"):
        with Path(os.environ["PBRUN_DOUBLE_CALLS"]).open("a") as calls:
            calls.write(json.dumps({"words": words, "gpus": gpus()}) + "\n")
    if not words or words[0] not in OPTIONS:
        refuse(f"no tool {words[:1]}")
    tool = words[0]
    given = read_options(tool, words[1:])
    print(f"[PB double] {tool} of {VERSION} begins", flush=True)
    check_gpus(given)
    fail_on_demand(tool, given)
    if tool == "fq2bam":
        fq2bam(given)
    else:
        call(tool, given)
    print(f"[PB double] {tool} is done", flush=True)


def read_options(tool: str, words: list[str]) -> Words:
    known = COMMON | OPTIONS[tool]
    given: Words = {}
    position = 0
    while position < len(words):
        name, equals, value = words[position].partition("=")
        if name not in known or SINCE.get(name, ()) > RELEASE:
            refuse(f"{tool} has no option {words[position]!r}")
        count = known[name]
        values = [value] if equals else words[position + 1 : position + 1 + count]
        if len(values) != count or any(each.startswith("--") for each in values):
            refuse(f"{name} takes {count} values, not {values}")
        if name in given and name not in REPEATED:
            refuse(f"{name} is given twice")
        given.setdefault(name, []).append(values)
        position += 1 if equals else 1 + count
    if missing := REQUIRED[tool] - set(given):
        refuse(f"{tool} needs {sorted(missing)}")
    if tool == "fq2bam":
        read_lanes(given)
    else:
        check_calling(tool, given)
    if {"--no-markdups", "--align-only"} <= set(given):
        refuse("--no-markdups contradicts --align-only")
    if "--no-markdups" in given and "--out-duplicate-metrics" in given:
        refuse("--out-duplicate-metrics contradicts --no-markdups")
    for name in NUMBERS_ONLY & set(given):
        if not given[name][0][0].isdigit():
            refuse(f"{name} takes a whole number")
    if "--optical-duplicate-pixel-distance" in given and "--out-duplicate-metrics" not in given:
        refuse("--optical-duplicate-pixel-distance needs --out-duplicate-metrics")
    return given


def read_lanes(given: Words) -> None:
    """Replace `--in-fq-list` by its lanes: two files and a read group, separated by one blank."""
    if ("--in-fq" in given) == ("--in-fq-list" in given):
        refuse("fq2bam takes --in-fq or --in-fq-list")
    if "--in-fq-list" in given:
        lines = Path(given["--in-fq-list"][0][0]).read_text().strip("\n").split("\n")
        given["--in-fq"] = [line.split(" ") for line in lines]
        if any(len(lane) != 3 for lane in given["--in-fq"]):
            refuse("a line of --in-fq-list has two files and a read group")


def check_calling(tool: str, given: Words) -> None:
    out = given["--out-variants"][0][0]
    gvcf = "--gvcf" in given
    plain = out.removesuffix(".gz")
    if not plain.endswith(".vcf") or (gvcf and not plain.endswith(".g.vcf")):
        refuse("variants are named .vcf, .vcf.gz, .g.vcf or .g.vcf.gz")
    if out != plain and (RELEASE < (4, 5, 1) or (gvcf and tool == "deepvariant")):
        refuse(f"{tool} of {VERSION} writes no {out}")
    if "--run-partition" in given:
        each = int(given.get("--gpu-num-per-partition", [["2"]])[0][0])
        if int(given["--num-gpus"][0][0]) % each:
            refuse(f"--run-partition needs a multiple of {each} GPUs")
        if out != plain or "--interval-file" in given:
            refuse("--run-partition cannot work with .gz or intervals")


def gpus() -> list[str]:
    return [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]


def check_gpus(given: Words) -> None:
    wanted = int(given.get("--num-gpus", [["1"]])[0][0])
    if len(gpus()) < wanted:
        refuse(f"cudaErrorNoDevice: {wanted} GPUs wanted, {len(gpus())} visible", 255)
    if len(gpus()) > 1 and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        refuse("several GPUs in an order that differs from nvidia-smi's")
    for gpu in gpus():
        hold(gpu)


def hold(gpu: str) -> None:
    """Two pbrun on one card end badly; the file stays locked until this process ends."""
    lock = os.open(f"{os.environ['PBRUN_DOUBLE_CALLS']}.gpu{gpu}", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        refuse(f"GPU {gpu} is in use")


def fail_on_demand(tool: str, given: Words) -> None:
    failure, _, step = os.environ.get("PBRUN_DOUBLE_FAILURE", "").partition(":")
    if failure == "by sample" and "--in-fq" in given:
        failure = given["--in-fq"][0][2].partition("SM:")[2].partition("\\t")[0]
    if not failure or (step and step != tool) or failure in ("cut_bam", "none"):
        return
    if failure == "gpu_memory" and SLIM & set(given):
        return
    if failure == "hang":
        Path("hanging").write_text(str(os.getpid()))
        time.sleep(600)
    status, words = FAILURES[failure]
    print(words, flush=True)
    if status < 0:
        os.kill(os.getpid(), -status)
    sys.exit(status)


def regular(path: str, what: str) -> Path:
    file = Path(path)
    if file.is_symlink():
        refuse(f"{what} {path} is a link: not found", 1)
    if not file.is_file():
        refuse(f"{what} {path} not found", 1)
    return file


def fq2bam(given: Words) -> None:
    reference = given["--ref"][0][0]
    for suffix in ("", ".fai", *INDEXES):
        regular(reference + suffix, "reference")
    if given.get("--bwa-options") != [["-K 10000000 -Y"]]:
        refuse("the double maps with -K 10000000 -Y only")
    tools = resolve()
    with tempfile.TemporaryDirectory(dir=given["--tmp-dir"][0][0]) as folder:
        mapper = tools.mapper("bwa")
        if mapper.name == "bwa-mem3":  # whose index pbrun does not use
            reference = shutil.copy(reference, folder)
            write_index(reference)
        align = [sys.executable, "-P", "-m", "wesemu.genomics.align", "--reference", reference]
        align += ["--counts", f"{folder}/counts", "--error", f"{folder}/error"]
        align += ["--threads", "2"]
        if mapper.name == "bwa-mem3":
            align.append("--bwa-mem3")
        elif tools.bwa.source != "wheel":
            align += ["--bwa", tools.bwa.shell]
        for first, second, group in given["--in-fq"]:
            for path in (first, second):
                regular(path, "FASTQ")
            fields = {field[:2] for field in group.split("\\t")[1:]}
            if "\t" in group or not group.startswith("@RG\\t") or not fields >= GROUP_FIELDS:
                refuse(f"the read group {group!r} is not whole: {sorted(GROUP_FIELDS)}")
            align += ["--reads", first, second, "--read-group", group]
        pipe(given, align, Path(folder), tools.samtools.command)


def pipe(given: Words, align: list[str], folder: Path, samtools: tuple[str, ...]) -> None:
    bam = given["--out-bam"][0][0]
    distance = given.get("--optical-duplicate-pixel-distance", [["0"]])[0][0]
    # the last command writes itself into the header, with paths, as the real one does
    mark = [*samtools, "markdup", "-l", "1000", "-T", f"{folder}/m", "-s", "--json"]
    mark += ["-f", f"{folder}/stats.json"] + (["-d", distance] if distance != "0" else [])
    order = [*samtools, "sort", "--no-PG", "-u", "-T", f"{folder}/s", "-"]
    commands = [align, [*samtools, "fixmate", "--no-PG", "-m", "-u", "-", "-"], order]
    if "--no-markdups" in given:
        order[order.index("-u")] = "-l1"
        order += ["-o", bam]
    else:
        commands.append([*mark, "-", bam])
    source = None
    started = []
    for command in commands:
        process = subprocess.Popen(command, stdin=source, stdout=subprocess.PIPE)
        if source is not None:
            source.close()
        source = process.stdout
        started.append(process)
    started[-1].communicate()
    ends = [process.wait() for process in started]
    if any(ends):
        refuse("the mapping failed", 1)
    if os.environ.get("PBRUN_DOUBLE_FAILURE") == "cut_bam":
        with Path(bam).open("r+b") as file:
            file.truncate(Path(bam).stat().st_size - 28)
    subprocess.run([*samtools, "index", "-o", f"{bam}.bai", bam], check=False)
    if "--out-duplicate-metrics" in given:
        stats = json.loads((folder / "stats.json").read_text())
        write_metrics(Path(given["--out-duplicate-metrics"][0][0]), stats)


def write_metrics(path: Path, stats: dict[str, int]) -> None:
    """In the columns of Picard's DuplicationMetrics."""
    row = {
        "LIBRARY": "sample",
        "READ_PAIR_DUPLICATES": stats["DUPLICATE PAIR"] // 2,
        "READ_PAIR_OPTICAL_DUPLICATES": stats["DUPLICATE PAIR OPTICAL"] // 2,
        "ESTIMATED_LIBRARY_SIZE": stats["ESTIMATED_LIBRARY_SIZE"],
    }
    lines = ["## METRICS CLASS\tof the double", "\t".join(row), "\t".join(map(str, row.values()))]
    path.write_text("\n".join([*lines, "", ""]))


def call(tool: str, given: Words) -> None:
    """By bcftools, as the CPU pipeline does it: so that the two can be compared."""
    reference = str(regular(given["--ref"][0][0], "reference"))
    regular(f"{reference}.fai", "reference")
    bam = str(regular(given["--in-bam"][0][0], "BAM"))
    regular(f"{bam}.bai", "BAM")
    out = given["--out-variants"][0][0]
    blocks = "--gvcf 0,10,20,30"
    jobs = [(blocks if "--gvcf" in given else "-v", out)]
    if tool == "deepvariant" and "--gvcf" in given:
        jobs.append(("-v", out.replace(".g.vcf", ".vcf")))
    ploidy = given.get("--ploidy", [["2"]])[0][0]
    if ploidy not in ("1", "2"):
        refuse("only haploid and diploid samples are supported")
    within = []
    if "--interval-file" in given:
        targets = given["--interval-file"][0][0]
        if not targets.endswith(".bed"):
            refuse("intervals are named .bed, .list or .interval_list")
        within = ["-R", str(regular(targets, "intervals"))]
    bcftools = resolve().bcftools.shell
    for options, path in jobs:
        script = (
            f"{bcftools} mpileup -Ou -X illumina -F 0.1 -a AD,DP -d 100000 -L 1000000"
            f' -f "$1" "$2" "${{@:4}}" |'
            f" {bcftools} call --no-version --ploidy {ploidy} -a GQ -m {options}"
            f' {"-Oz" if path.endswith(".gz") else "-Ov"} -o "$3" -'
        )
        words = ["bash", "-euo", "pipefail", "-c", script, "double", reference, bam, path, *within]
        if subprocess.run(words, check=False).returncode:
            refuse("the calling failed", 1)


if __name__ == "__main__":
    main()
