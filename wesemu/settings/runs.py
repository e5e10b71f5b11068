"""Settings groups of runs: workflows, inputs, engines, this machine, limits, service levels."""

from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from wesemu.runs.clock import FASTEST
from wesemu.runs.model import Pacing


class WorkflowSettings(BaseModel):
    """Workflows that a request names by URL."""

    model_config = ConfigDict(extra="forbid")

    fetch: bool = True
    """Fetch `http:`, `https:` and `trs:` URLs in `workflow_url`."""
    hosts: list[str] = Field(default_factory=lambda: ["*"])
    """Where from, with `*` for any letters: `["raw.githubusercontent.com", "dockstore.org"]`."""
    networks: list[IPv4Network | IPv6Network] = Field(default_factory=list)
    """Networks that are not public where workflows may be fetched: `["10.0.0.0/8"]`."""
    folders: list[Path] = Field(default_factory=list)
    """Folders of this machine below which `file:` URLs in `workflow_url` may lead."""
    owners: Literal["auto"] | list[str] = "auto"
    """The owners who may send workflows of their own, which are programs: `["alice"]`, `["*"]`
    for all, `[]` for nobody. `auto`: all on a loopback address without credentials, else nobody.
    The bundled pipelines are open to every owner."""


class ClockSettings(BaseModel):
    """The emulated clock, which tells when runs were created, begun and ended."""

    model_config = ConfigDict(extra="forbid")

    speed: float = Field(default=1.0, ge=0, le=FASTEST, allow_inf_nan=False)
    """Emulated seconds a real second when the server starts; 600: ten minutes a second."""


class SlaSettings(BaseModel):
    """How AGS's service levels are emulated."""

    model_config = ConfigDict(extra="forbid")

    pace: Pacing = Pacing.REAL
    """`real`: a job ends when its tools do; `sla`: after its service level's minutes on the
    emulated clock, once its tools are done."""

    bases_factor: Decimal = Field(default=Decimal(1), gt=0, le=10**9, allow_inf_nan=False)
    """Every counted base pair stands for this many in the service level and the price."""

    read_length_penalty: bool = False
    """Reads below 150 bp get up to 30 % more time, as the billing page says."""


class InputSettings(BaseModel):
    """What runs may name as inputs beside buckets and attachments; see docs/inputs.md."""

    model_config = ConfigDict(extra="forbid")

    http: bool = True
    """Fetch `http://` and `https://` inputs from public addresses."""

    networks: list[IPv4Network | IPv6Network] = Field(default_factory=list)
    """Networks that are not public where inputs may be fetched nevertheless: `["10.0.0.0/8"]`."""

    file_roots: list[Path] = Field(default_factory=list)
    """Folders below which `file://` inputs may lie; without any there are no such inputs."""

    largest_gib: float = Field(default=1024, gt=0, allow_inf_nan=False)
    """The largest file that is fetched, in GiB."""

    cache_gib: float = Field(default=200, ge=0, allow_inf_nan=False)
    """How much fetched inputs may take in the data directory, in GiB; what was used longest ago
    goes first, and nothing that a run still uses."""


class RemoteBucketSettings(BaseModel):
    """One bucket that lies elsewhere, by the name that it has here."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["s3", "oss"]
    """The service: `s3` needs the extra `s3`, `oss` the extra `oss`."""

    bucket: str = ""
    """The bucket's name there; empty: the same."""

    prefix: str = ""
    """Keys lie below this folder there, and no key leads out of it."""

    endpoint: str = ""
    """The service's URL; empty: Amazon's or Alibaba's own, by the region."""

    region: str = ""
    """The region, which signatures of version 4 need; empty for OSS: version 1."""

    access_key_id: SecretStr = SecretStr("")
    """Empty: boto3's chain for `s3`, OSS_ACCESS_KEY_ID … in the environment for `oss`."""

    access_key_secret: SecretStr = SecretStr("")
    """The secret of `access_key_id`."""

    security_token: SecretStr = SecretStr("")
    """The token of temporary credentials."""

    anonymous: bool = False
    """Ask without credentials, as for public data."""

    path_style: bool = False
    """Write the bucket into the path and not into the host, as many services of one's own want."""

    part_mib: int = Field(default=16, ge=5, le=5120)
    """Files beyond this are sent in parts of it, in MiB."""

    @model_validator(mode="after")
    def _has_whole_credentials(self) -> Self:
        has_id = bool(self.access_key_id.get_secret_value())
        if has_id != bool(self.access_key_secret.get_secret_value()):
            raise ValueError("access_key_id and access_key_secret go together")
        if has_id and self.anonymous:
            raise ValueError("anonymous and access_key_id exclude each other")
        return self


class WdlSettings(BaseModel):
    """How WDL tasks are run."""

    model_config = ConfigDict(extra="forbid")

    containers: Literal["auto", "always", "never"] = "auto"
    """Where docker, podman or apptainer is found. `auto`: tasks that name an image run in it, if
    it is there or can be pulled, and on this machine otherwise; `always`: all tasks run in
    containers, those without an image in miniwdl's default image; `never`: on this machine."""


class EngineSettings(BaseModel):
    """How workflows are run."""

    model_config = ConfigDict(extra="forbid")

    snakemake: Literal["warm", "cli"] = "warm"
    """`warm`: forked from a process that has Snakemake loaded; `cli`: a cold start each."""

    sandbox: Literal["auto", "landlock", "bubblewrap", "none"] = "auto"
    """What keeps users' own workflows inside their run directory. `auto`: Landlock where the
    kernel has it (Linux 5.13), else none; `landlock`: refuse to start without it; `bubblewrap`:
    the program bwrap, which hides other processes as well, with a cold start of each workflow."""

    network: bool = True
    """Let users' own workflows use the network."""

    readable: list[Path] = Field(default_factory=list)
    """Files and folders that sandboxed workflows may read although they lie in the data directory
    or hold credentials."""

    writable: list[Path] = Field(default_factory=list)
    """Folders that sandboxed workflows may write to beside their run directory."""

    environment: list[str] = Field(default_factory=list)
    """Environment variables that tasks get although their names or values look like secrets, with
    `*` for any letters: `["AWS_*"]`."""

    wdl: WdlSettings = Field(default_factory=WdlSettings)


class LimitSettings(BaseModel):
    """What a run may use, and how many an owner may have; 0: no limit."""

    model_config = ConfigDict(extra="forbid")

    run_minutes: float = Field(default=0, ge=0, allow_inf_nan=False)
    """Minutes of this machine's clock that a run may take once it has started."""

    bytes: int = Field(default=0, ge=0)
    """Bytes that a run may write into its run directory."""

    runs_per_owner: int = Field(default=0, ge=0)
    """Runs of an owner that may be queued or active at a time."""


class RetentionSettings(BaseModel):
    """When ended runs are removed."""

    model_config = ConfigDict(extra="forbid")

    days: float = Field(default=0, ge=0, allow_inf_nan=False)
    """Runs that ended longer ago are removed, with their directories; results in buckets stay.
    0: never."""


class GpuSettings(BaseModel):
    """A GPU that is declared."""

    model_config = ConfigDict(extra="forbid")

    index: int = Field(ge=0)
    """Its number as in `nvidia-smi`."""

    name: str | None = None
    """Its name, as "NVIDIA H200"."""

    memory_mb: int | None = Field(default=None, gt=0)
    """All of its memory, in MiB."""

    driver: str | None = None
    """The version of the driver."""


GpuIndex = Annotated[int, Field(ge=0)]
GpuList = Literal["auto"] | GpuIndex | list[GpuIndex] | list[GpuSettings]


def _no_index_twice(gpus: GpuList) -> GpuList:
    if isinstance(gpus, list):
        indexes = [gpu.index if isinstance(gpu, GpuSettings) else gpu for gpu in gpus]
        if len(set(indexes)) < len(indexes):
            raise ValueError("a GPU is named twice")
    return gpus


class NodeSettings(BaseModel):
    """What this machine offers to runs."""

    model_config = ConfigDict(extra="forbid")

    cores: int = Field(default=0, ge=0)
    """Cores for all runs together; 0: those that this process may use."""

    memory_mb: int = Field(default=0, ge=0)
    """MiB for all runs together; 0: what the machine or its container has."""

    gpus: Annotated[GpuList, AfterValidator(_no_index_twice)] = "auto"
    """The GPUs that the tasks of all runs may use: `auto` for those that are found, a number, a
    list of indexes, or a list of tables with `index`, `name`, `memory_mb` and `driver`. With
    Slurm `auto` is none."""

    lend_busy_gpus: bool = True
    """Lend GPUs that processes of others compute on when the server starts."""

    default: Literal["auto", "cpu", "cuda"] = "auto"
    """Where a run is carried out that does not say: `auto` takes GPUs where there are some and
    the workflow can use them."""

    without_gpu: Literal["queue", "refuse", "cpu"] = "refuse"
    """What becomes of a run for `cuda` where there is no GPU: it waits for one, is refused, or
    is carried out on the CPU and says so."""

    runs: int = Field(default=0, ge=0)
    """Runs of a service level that are active at a time; 0: twice the cores, at least 4, as
    far as the memory allows. Their tasks take turns on the cores."""

    executor: Literal["local", "slurm", "slurm-plugin"] = "local"
    """Where Snakemake's tasks run: here; by `srun` in front of each one; by Snakemake's executor
    plugin. With Slurm `cores` are those that a run may ask for in all."""

    slurm_partition: str = ""
    """Slurm's partition; empty: the cluster's default one. A rule's `slurm_partition` wins."""

    slurm_account: str = ""
    """Slurm's account; empty: the user's default one. A rule's `slurm_account` wins."""

    slurm_options: list[Annotated[str, Field(pattern=r"^--[a-z]")]] = Field(default_factory=list)
    """More words for srun, salloc or the plugin's sbatch: `["--qos=long", "--exclusive"]`."""


class ParabricksSettings(BaseModel):
    """How NVIDIA Parabricks runs on a CUDA node; docs/parabricks.md."""

    model_config = ConfigDict(extra="forbid")

    runtime: Literal["auto", "native", "docker", "apptainer", "none"] = "auto"
    """`auto`: `pbrun` on PATH, else the image; `none`: never."""

    image: str = ""
    """Docker's name of an image that is on this machine, or a .sif file; none is ever fetched."""

    low_memory: Literal["auto", "always", "never"] = "auto"
    """The low-memory flags; `auto`: for cards below 24 GB."""

    retry_low_memory: bool = True
    """Run once more with the low-memory flags when the card's memory ran out."""

    temporary: str = ""
    """A folder on a fast local disk for temporary files; empty: the run's directory."""

    memory_limit: int = Field(default=0, ge=0)
    """GB of host memory for fq2bam; 0: its own choice, half of what there is."""
