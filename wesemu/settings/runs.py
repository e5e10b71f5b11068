"""Settings groups of runs: workflows, inputs, engines, this machine, limits, service levels."""

from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from wesemu.runs.clock import FASTEST
from wesemu.runs.model import Pacing


class WorkflowSettings(BaseModel):
    """Workflows of users and workflows by URL."""

    model_config = ConfigDict(extra="forbid")

    fetch: bool = True
    """Fetch `http:`, `https:` and `trs:` URLs in `workflow_url`."""
    hosts: list[str] = Field(default_factory=lambda: ["*"])
    """Allowed hosts, with `*` as wildcard: `["raw.githubusercontent.com", "dockstore.org"]`."""
    networks: list[IPv4Network | IPv6Network] = Field(default_factory=list)
    """Networks that workflows may come from although they are not public: `["10.0.0.0/8"]`."""
    folders: list[Path] = Field(default_factory=list)
    """Folders of this machine for `file:` URLs in `workflow_url`."""
    owners: Literal["auto"] | list[str] = "auto"
    """Owners who may send their own workflows, which are programs: `["alice"]`, `["*"]` for all,
    `[]` for none. `auto`: all on a loopback address without credentials, otherwise none. Every
    owner may use the bundled pipelines."""


class ClockSettings(BaseModel):
    """The emulated clock, which sets the times of runs."""

    model_config = ConfigDict(extra="forbid")

    speed: float = Field(default=1.0, ge=0, le=FASTEST, allow_inf_nan=False)
    """Emulated seconds per real second at start-up; 600: ten minutes per second."""


class SlaSettings(BaseModel):
    """Emulation of AGS's service levels."""

    model_config = ConfigDict(extra="forbid")

    pace: Pacing = Pacing.REAL
    """`real`: a job ends with its tools; `sla`: after the minutes of its service level on the
    emulated clock, but not before its tools."""

    bases_factor: Decimal = Field(default=Decimal(1), gt=0, le=10**9, allow_inf_nan=False)
    """Factor for the counted base pairs in service level and price."""

    read_length_penalty: bool = False
    """Give reads below 150 bp up to 30 % more time, as on the billing page."""


class InputSettings(BaseModel):
    """Inputs from outside the buckets; docs/inputs.md."""

    model_config = ConfigDict(extra="forbid")

    http: bool = True
    """Fetch `http://` and `https://` inputs from public addresses."""

    networks: list[IPv4Network | IPv6Network] = Field(default_factory=list)
    """Networks that inputs may come from although they are not public: `["10.0.0.0/8"]`."""

    file_roots: list[Path] = Field(default_factory=list)
    """Folders for `file://` inputs; empty: no such inputs."""

    largest_gib: float = Field(default=1024, gt=0, allow_inf_nan=False)
    """Largest file to download, in GiB."""

    cache_gib: float = Field(default=200, ge=0, allow_inf_nan=False)
    """Size of the cache of downloaded inputs in GiB; the least recently used files are deleted
    first, but none that a run uses."""


class RemoteBucketSettings(BaseModel):
    """A remote bucket; its key in `remote_buckets` is its local name."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["s3", "oss"]
    """The service: `s3` needs the extra `s3`, `oss` the extra `oss`."""

    bucket: str = ""
    """The remote name; empty: the local name."""

    prefix: str = ""
    """The remote folder that contains the keys; keys cannot leave it."""

    endpoint: str = ""
    """The service's URL; empty: Amazon's or Alibaba's, by region."""

    region: str = ""
    """The region, for signatures of version 4; OSS without a region uses version 1."""

    access_key_id: SecretStr = SecretStr("")
    """Empty: boto3's credential chain (`s3`), or OSS_ACCESS_KEY_ID … in the environment (`oss`)."""

    access_key_secret: SecretStr = SecretStr("")
    """The secret of `access_key_id`."""

    security_token: SecretStr = SecretStr("")
    """The token of temporary credentials."""

    anonymous: bool = False
    """Send no credentials, for public data."""

    path_style: bool = False
    """Put the bucket into the path instead of the host, as many self-hosted services need."""

    part_mib: int = Field(default=16, ge=5, le=5120)
    """Part size of multipart uploads in MiB; larger files are sent in parts."""

    @model_validator(mode="after")
    def _has_whole_credentials(self) -> Self:
        has_id = bool(self.access_key_id.get_secret_value())
        if has_id != bool(self.access_key_secret.get_secret_value()):
            raise ValueError("access_key_id and access_key_secret go together")
        if has_id and self.anonymous:
            raise ValueError("anonymous and access_key_id exclude each other")
        return self


class WdlSettings(BaseModel):
    """WDL tasks."""

    model_config = ConfigDict(extra="forbid")

    containers: Literal["auto", "always", "never"] = "auto"
    """Use of docker, podman or apptainer. `auto`: tasks with an image run in it if it is present or
    can be pulled, otherwise on this machine; `always`: all tasks run in containers, those without
    an image in miniwdl's default image; `never`: on this machine."""


class EngineSettings(BaseModel):
    """Execution of workflows."""

    model_config = ConfigDict(extra="forbid")

    snakemake: Literal["warm", "cli"] = "warm"
    """`warm`: fork each run from a process with Snakemake loaded; `cli`: start a new process."""

    sandbox: Literal["auto", "landlock", "bubblewrap", "none"] = "auto"
    """Sandbox that keeps workflows of users in their run directory. `auto`: Landlock if the kernel
    has it (Linux 5.13), otherwise none; `landlock`: do not start without it; `bubblewrap`: the
    program bwrap, which also hides other processes, with a cold start of each workflow."""

    network: bool = True
    """Allow workflows of users to use the network."""

    readable: list[Path] = Field(default_factory=list)
    """Files and folders that sandboxed workflows may read although they lie in the data directory
    or contain credentials."""

    writable: list[Path] = Field(default_factory=list)
    """Folders that sandboxed workflows may write to, besides their run directory."""

    environment: list[str] = Field(default_factory=list)
    """Environment variables that tasks get although they look like secrets, with `*` as wildcard:
    `["AWS_*"]`."""

    wdl: WdlSettings = Field(default_factory=WdlSettings)


class LimitSettings(BaseModel):
    """Limits of runs and owners; 0: no limit."""

    model_config = ConfigDict(extra="forbid")

    run_minutes: float = Field(default=0, ge=0, allow_inf_nan=False)
    """Most wall clock minutes of a run after its start."""

    bytes: int = Field(default=0, ge=0)
    """Most bytes in a run directory."""

    runs_per_owner: int = Field(default=0, ge=0)
    """Most queued and active runs of an owner."""


class RetentionSettings(BaseModel):
    """Removal of ended runs."""

    model_config = ConfigDict(extra="forbid")

    days: float = Field(default=0, ge=0, allow_inf_nan=False)
    """Remove runs that ended so many days ago, with their directories; results in buckets stay.
    0: never."""


class GpuSettings(BaseModel):
    """A declared GPU."""

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
    """Resources of this machine for runs."""

    model_config = ConfigDict(extra="forbid")

    cores: int = Field(default=0, ge=0)
    """Cores for all runs together; 0: all that this process may use."""

    memory_mb: int = Field(default=0, ge=0)
    """MiB of memory for all runs together; 0: all of the machine or its container."""

    gpus: Annotated[GpuList, AfterValidator(_no_index_twice)] = "auto"
    """GPUs for tasks: `auto` for all that are found, a number, a list of indexes, or a list of
    tables with `index`, `name`, `memory_mb` and `driver`. With Slurm, `auto` means none."""

    lend_busy_gpus: bool = True
    """Also use GPUs on which other processes compute when the server starts."""

    default: Literal["auto", "cpu", "cuda"] = "auto"
    """Default placement of runs. `auto`: on GPUs if there are any and the workflow can use them."""

    without_gpu: Literal["queue", "refuse", "cpu"] = "refuse"
    """What happens to a run for `cuda` without a GPU: it waits for one, is refused, or runs on the
    CPU with a note."""

    runs: int = Field(default=0, ge=0)
    """Most active runs of a service level; 0: twice the cores, at least 4, as far as the memory
    allows. Their tasks share the cores by leases."""

    executor: Literal["local", "slurm", "slurm-plugin"] = "local"
    """Where Snakemake's tasks run: on this machine, each with `srun`, or with Snakemake's executor
    plugin for Slurm. With Slurm, `cores` limits the cores of a run."""

    slurm_partition: str = ""
    """Slurm's partition; empty: the cluster's default one. A rule's `slurm_partition` wins."""

    slurm_account: str = ""
    """Slurm's account; empty: the user's default one. A rule's `slurm_account` wins."""

    slurm_options: list[Annotated[str, Field(pattern=r"^--[a-z]")]] = Field(default_factory=list)
    """Further options of srun, salloc or the plugin's sbatch: `["--qos=long", "--exclusive"]`."""


class ParabricksSettings(BaseModel):
    """NVIDIA Parabricks on a CUDA node; docs/parabricks.md."""

    model_config = ConfigDict(extra="forbid")

    runtime: Literal["auto", "native", "docker", "apptainer", "none"] = "auto"
    """`auto`: `pbrun` on PATH, otherwise the image; `none`: never."""

    image: str = ""
    """A Docker image on this machine, or a .sif file. Images are never downloaded."""

    low_memory: Literal["auto", "always", "never"] = "auto"
    """Low-memory flags; `auto`: for GPUs below 24 GB."""

    retry_low_memory: bool = True
    """Retry with the low-memory flags when the GPU ran out of memory."""

    temporary: str = ""
    """A folder on a fast local disk for temporary files; empty: the run's directory."""

    memory_limit: int = Field(default=0, ge=0)
    """GB of host memory for fq2bam; 0: its default, half of the memory."""
