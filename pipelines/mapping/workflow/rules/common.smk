import json
import re
import shlex
import sys
from importlib import metadata
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

from wesemu.errors import InputError, InvalidRequest
from wesemu.genomics.bwa_index import (
    SUFFIXES_OF,
    fingerprint,
    index_fault,
    indexing_memory_mb,
)
from wesemu.genomics.fastq import LONGEST_READ
from wesemu.genomics.mappers import uses_gpu
from wesemu.genomics.parabricks.preflight import parabricks_tool
from wesemu.genomics.read_groups import NamedFile, check_files_differ, file_identity
from wesemu.genomics.read_groups import complete_read_groups, libraries
from wesemu.genomics.reference_records import (
    CALLERS_WITH_CSI,
    LONGEST_IN_BAI,
    index_format,
)
from wesemu.genomics.reference_records import default_folder, find_alternates
from wesemu.genomics.reports import check_reports
from wesemu.genomics.tools import OPTIONAL, REQUIRED, Tool, resolve
from wesemu.genomics.wheel_tools import program_command

# Every shell command runs in bash with `set -euo pipefail`, Snakemake's default for bash: a pipe
# fails if any of its programs fails.
shell.executable("bash")


check_reports(config["reports"])


def check_paths():
    """Raise WorkflowError for paths with braces, which Snakemake cannot have as inputs."""
    reads = [lane[mate] for lane in config["reads"] for mate in MATES if mate in lane]
    others = [config.get(name) for name in ("targets", "ploidy")]
    others = [path for path in others if isinstance(path, str)]
    for path in (config["reference"], *reads, *others):
        if re.search(r"{.*}", path):
            raise WorkflowError(
                f"Snakemake takes the braces in {path} for a wildcard; rename the file or its "
                "folder, or link it under another name"
            )


ON_GPU = config["accelerator"] == "cuda"


def choose_tools():
    settings = dict(config["tools"])
    more = {config["mapper"], config.get("caller")} & set(OPTIONAL)
    if ON_GPU:  # there Parabricks has deepvariant
        more -= {"deepvariant"}
    if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method:
        settings = {name: name for name in (*REQUIRED, *more)} | settings
    return resolve(settings, more=more)


def choose_index_format():
    """Choose the format of the BAM index before anything runs. BAI, and TBI for a VCF, have a limit
    for the length of contigs."""
    if config["index_format"] != "auto":
        return config["index_format"]
    try:
        return index_format(Path(config["reference"]), REFERENCE_RECORDS)
    except InputError as error:
        raise WorkflowError(error.message) from error


TOOLS = choose_tools()
SAMTOOLS = TOOLS.samtools.shell
OWN_MAPPER = config.get("own_mapper")
PARABRICKS = parabricks_tool(config["parabricks"]) if ON_GPU else None
# fq2bam replaces bwa only; another mapper runs on the CPU
FQ2BAM = ON_GPU and config["mapper"] == "bwa" and not OWN_MAPPER
if FQ2BAM or OWN_MAPPER:  # both use bwa's index
    MAPPER = INDEXER = TOOLS.bwa
else:
    MAPPER = TOOLS.mapper(config["mapper"])
    INDEXER = TOOLS.indexer(config["mapper"])
SUFFIXES = SUFFIXES_OF[INDEXER.name]
if OWN_MAPPER:
    MAPPED_BY = Tool(OWN_MAPPER["name"], (), "unknown", "settings")
else:
    MAPPED_BY = PARABRICKS if FQ2BAM else MAPPER
PYTHON = shlex.join([sys.executable, "-P"])


def program(name):
    """Return the command of wesemu.genomics.NAME, which starts quickly."""
    return shlex.join(program_command(name))


THREADS = config.get("threads") or workflow.cores or 8
# a directory for temporary files only, which is removed when a rule ends
TEMPORARY = ".mapping"
REFERENCE = "resources/genome.fa"
REFERENCE_STATE = "resources/reference.json"
REFERENCE_RECORDS = (
    Path(config["reference_records"])
    if "reference_records" in config
    else default_folder()
)
ALTERNATES = find_alternates(Path(config["reference"]))
REFERENCE_INDEX = multiext(
    REFERENCE, ".fai", *SUFFIXES, *([".alt"] if ALTERNATES else [])
)
# fails if the reference was replaced since the run began
REFERENCE_UNCHANGED = f"{program('reference_state')} {REFERENCE_STATE} input_error.json"
INDEX_FORMAT = choose_index_format()
BAM_INDEX = f"results/aligned.bam.{INDEX_FORMAT}"
# wgs adds the variants to this summary
SUMMARY = "results/mapping.json" if "caller" in config else "results/summary.json"
MATES = ("first", "second")
MEBIBYTE = 1 << 20


check_paths()


def check_lanes():
    """Return the read groups of all lanes. Raise WorkflowError for a file in two lanes, a bad read
    group, and lanes of different samples."""
    try:
        check_files_differ(
            [
                NamedFile(f"reads.{number}.{x}", lane[x], file_identity(lane[x]))
                for x in MATES
                if x in lane
            ]
            for number, lane in enumerate(config["reads"])
        )
        return complete_read_groups(
            [lane.get("read_group") for lane in config["reads"]], config["sample"]
        )
    except InvalidRequest as error:
        raise WorkflowError(f"{error.field}: {error.message}") from error


READ_GROUPS = check_lanes()
# bcftools names the sample by the SM of the read groups
SAMPLE = READ_GROUPS[0].sample
LIBRARIES = libraries(READ_GROUPS)
if config["quality_offset"] is None:
    QUALITY_OFFSET = []
else:
    QUALITY_OFFSET = ["--quality-offset", str(config["quality_offset"])]


def reads_and_groups(groups=READ_GROUPS):
    """Return options for mappers: the files of each lane, and its @RG line with tabs as \\t."""
    options = []
    for lane, group in zip(config["reads"], groups):
        options += ["--reads", *(lane[mate] for mate in MATES if mate in lane)]
        options += ["--read-group", group.line.replace("\t", "\\t")]
    return options


def lane_options():
    options = reads_and_groups()
    if MAPPER.name == "bwa-mem3":
        options.append("--bwa-mem3")
    elif MAPPER.source != "wheel":
        options += [f"--{MAPPER.name}", MAPPER.shell]
    if MAPPER.note:
        options += ["--note", MAPPER.note]
    return options


def markdup_options():
    """Return options for markdup. With several libraries, each record has its own in the tag LB."""
    distance = config["optical_distance"]
    options = f"-l {LONGEST_READ}" + (f" -d {distance}" if distance else "")
    return options + (" --barcode-tag LB" if len(LIBRARIES) > 1 else "")


def finishing(threads, output):
    """Return the end of the mapping pipe, which writes the BAM and its index. markdup needs mate
    scores and sorted records."""
    memory = max(64, config["sort_memory_mb"] // threads)  # MiB for each thread
    fixmate = "fixmate --no-PG -m -u - -"
    sort = f"sort --no-PG -@ {threads} -m {memory}M -T {TEMPORARY}/sort"
    markdup = (
        f"markdup --no-PG -@ {threads} {markdup_options()} -T {TEMPORARY}/markdup"
        f" -s --json -f {TEMPORARY}/markdup.json"
    )
    form = f"-O bam,level={bam_level()} --write-index"
    bam = f"{output.bam}##idx##{output.bai}"
    piped = TOOLS.samtools.piped
    if not config["markdup"]:
        return piped(fixmate, f"{sort} {form} -o {bam} -")
    if len(LIBRARIES) == 1:
        return piped(fixmate, f"{sort} -u -", f"{markdup} {form} - {bam}")
    view = f"view --no-PG -@ {threads} {form} -x LB -o {bam} -"
    return (
        f"{piped(fixmate, f'{sort} -u -')} | {program('read_groups')} |"
        f" {piped(f'{markdup} -u - -', view)}"
    )


def map_memory_mb(wildcards, input, threads):
    """Return the MiB of mapping: the mapper's index, the sort, batches of reads, programs."""
    fasta = Path(config["reference"])
    bases = size_of([fasta]) * (4 if fasta.suffix == ".gz" else 1)
    index = bases * {"bwa": 1.75, "bwa-mem2": 6, "bwa-mem3": 3.35}.get(MAPPER.name, 4)
    # bwa's threads share one batch; each thread of bwa-mem3 has its own
    batch = 300 if MAPPER.name == "bwa-mem3" else 50
    # a small input does not fill the memory of the sort
    kept = min(config["sort_memory_mb"], 16 * size_of(input.reads) // MEBIBYTE)
    return round(index / MEBIBYTE) + max(64 * threads, kept) + batch * threads + 400


def index_memory_mb(wildcards):
    """Return the MiB of the indexer; little if an index exists."""
    reference = config["reference"]
    if index_fault(reference, INDEXER.name) is None:
        return 200
    fasta = Path(reference)
    return indexing_memory_mb(
        INDEXER.name, size_of([fasta]) * (4 if fasta.suffix == ".gz" else 1)
    )


def size_of(paths):
    """Return the bytes of the files that exist."""
    return sum(Path(path).stat().st_size for path in paths if Path(path).exists())


def later_programs():
    """Return options with the programs after the mapper, for the header."""
    steps = "samtools fixmate -m | samtools sort"
    if config["markdup"]:
        steps += f" | samtools markdup {markdup_options()}"
    return ["--later", "samtools", TOOLS.samtools.version, steps]


def bam_level():
    """Return the compression level of the mapped BAM: fast if the BAM is only intermediate."""
    return config["bam_level"] if config["alignment"] == "aligned.bam" else 1


def kept_as_bam(path):
    return path if config["alignment"] == "aligned.bam" else temp(path)


def mapping_results():
    alignment = config["alignment"]
    index = INDEX_FORMAT if alignment == "aligned.bam" else "crai"
    names = [alignment, f"{alignment}.{index}", "summary.json", "reads.json"]
    names += ["flagstat.json", "flagstat.txt", "stats.txt", "idxstats.txt"]
    if config["markdup"]:
        names.append("markdup.json")
    return [f"results/{name}" for name in names]


# Keys of the configuration that change no alignment: place, speed and format of the results, and
# further results. A change of any other key makes all results out of date.
NOT_IN_ALIGNMENTS = {
    *("threads", "sort_memory_mb", "gpus", "gpu_memory_mb", "gpu_driver", "parabricks"),
    *(
        "tools",
        "reports",
        "alignment",
        "cram_version",
        "reference_records",
        "index_format",
    ),
    *("caller", "vcf", "gvcf", "slice_size_mb", "ploidy", "sex", "targets"),
}


def depends_on(*tools, **more):
    """Return one parameter with all that a rule's results depend on besides code and input files.

    Snakemake runs a rule again when a parameter has changed. But it compares parameters as a set of
    single values (a swap of two goes unnoticed), and ignores functions of input, output, threads or
    resources. So every rule has this one parameter.
    """
    known = more | {tool.name: [tool.version, tool.shell] for tool in tools}
    text = json.dumps(known, sort_keys=True)
    return text.replace("{", "(").replace("}", ")")  # braces would be wildcards


def reference_key():
    """Return what the reference depends on. A changed FASTA may keep its name, size and time."""
    fasta = config["reference"]
    return depends_on(
        TOOLS.samtools,
        INDEXER,
        fasta=fingerprint(fasta),
        alternates=fingerprint(ALTERNATES) if ALTERNATES else "missing",
    )


def alignment_key():
    """Return everything that the alignments depend on."""
    kept = {
        name: value for name, value in config.items() if name not in NOT_IN_ALIGNMENTS
    }
    files = [
        fingerprint(lane[mate])
        for lane in config["reads"]
        for mate in MATES
        if mate in lane
    ]
    return depends_on(
        TOOLS.samtools,
        MAPPER,
        MAPPED_BY,
        reference=REFERENCE_KEY,
        files=files,
        config=kept,
    )


def package_version(name):
    """Return the version of a Python package; "none" if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


REFERENCE_KEY = reference_key()
ALIGNMENT_KEY = alignment_key()
