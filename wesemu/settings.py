"""Every setting, once. Flags win over `WESEMU_*`, those over `./wesemu.toml`, that over defaults.

Unknown keys are refused. Nested keys are written with two underscores in the environment:
`WESEMU_AUTH__TOKENS='{"secret": "alice"}'`.
"""

import base64
import os
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from wesemu.api.connections import check_public_url
from wesemu.api.csrf import check_origin
from wesemu.errors import InvalidRequest
from wesemu.genomics.mappers import check_template
from wesemu.genomics.tools import check_commands
from wesemu.runs.clock import FASTEST
from wesemu.runs.model import Pacing
from wesemu.workflows.params import MAPPERS


class OidcSettings(BaseModel):
    """JSON Web Tokens of an OpenID Connect issuer, for WES. Needs the extra `oidc`."""

    model_config = ConfigDict(extra="forbid")

    issuer: str = Field(default="", pattern=r"^(https?://[^?#\s]+)?$")
    """The issuer's URL, letter by letter as its tokens have it in `iss`; empty: none."""
    audiences: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """What tokens for this server have in `aud`: one of these."""
    jwks: str = ""
    """The issuer's keys: a URL or a file; empty: where its discovery document says."""
    owner_claim: str = Field(default="sub", min_length=1)
    """The claim that names the owner."""
    scopes: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Scopes that a token must have, all of them."""
    leeway_seconds: float = Field(default=30.0, ge=0, le=300, allow_inf_nan=False)
    """How wrong the clocks may be."""

    @model_validator(mode="after")
    def _has_audience(self) -> Self:
        if self.issuer and not self.audiences:
            raise ValueError(
                "name the audiences that tokens for this server have; without them the tokens "
                "that the issuer gives to any other service would open this one"
            )
        return self


class AuthSettings(BaseModel):
    """Who may come in. With neither keys, tokens nor an issuer everybody is the owner `local`."""

    model_config = ConfigDict(extra="forbid")

    ags_keys: dict[str, str] = Field(default_factory=dict)
    """AGS: access key id = secret; the id is the owner."""

    tokens: dict[str, str] = Field(default_factory=dict)
    """WES: bearer token = owner."""
    oidc: OidcSettings = Field(default_factory=OidcSettings)

    admin_token: str = ""
    """The bearer token that the emulator's own controls below `/_wesemu/` need, from wherever they
    are used; without one this machine may use them, and only this machine."""

    @property
    def bearers(self) -> bool:
        """Whether WES wants tokens."""
        return bool(self.tokens or self.oidc.issuer)

    @property
    def closed(self) -> bool:
        """Whether anybody has to show credentials of any kind."""
        return bool(self.ags_keys) or self.bearers


class ServerSettings(BaseModel):
    """Connections, and how the server is reached."""

    model_config = ConfigDict(extra="forbid")

    connections: int = Field(default=0, ge=0, le=100_000)
    """Connections that are open at a time; 0: as many as the limit of open files allows, at most
    4096."""

    idle_seconds: float = Field(default=75.0, gt=0, le=86_400, allow_inf_nan=False)
    """A connection without a request is closed after so long."""

    header_seconds: float = Field(default=30.0, gt=0, le=3600, allow_inf_nan=False)
    """How long the headers of a request may take."""

    stalled_seconds: float = Field(default=120.0, gt=0, le=86_400, allow_inf_nan=False)
    """A connection on which a request's body, or its answer, does not move is closed after so
    long."""

    public_url: str = ""
    """The address by which clients reach the server, for the URLs in its answers; empty: the one
    that each request names."""

    trusted_proxies: list[IPv4Network | IPv6Network | Literal["unix"]] = Field(default_factory=list)
    """Proxies that are believed what they tell of a client: `["127.0.0.1/32", "unix"]`."""

    cors_origins: list[str] = Field(default_factory=list)
    """Origins whose web pages may call: `["https://portal.example.org"]`."""

    @field_validator("public_url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        return check_public_url(url)

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: list[str]) -> list[str]:
        return [check_origin(origin) for origin in origins]


class WesSettings(BaseModel):
    """How `/ga4gh/wes/v1` answers."""

    model_config = ConfigDict(extra="forbid")

    version: Literal["0.3.0", "1.0.0", "1.0.1", "1.1.0"] = "0.3.0"
    """The WES version of the unversioned path."""


class CallbackSettings(BaseModel):
    """How runs with a `callback_url` tell of their states."""

    model_config = ConfigDict(extra="forbid")

    secret: str = ""
    """Signs callbacks as Standard Webhooks has it: `whsec_` and base64, or plain text."""

    networks: list[IPv4Network | IPv6Network] = Field(default_factory=list)
    """Networks that are not public where callbacks may go nevertheless: `["127.0.0.0/8"]`."""

    @field_validator("secret")
    @classmethod
    def _decodable(cls, secret: str) -> str:
        if secret.startswith("whsec_"):
            try:
                base64.b64decode(secret.removeprefix("whsec_"), validate=True)
            except ValueError as error:
                raise ValueError("whsec_ is followed by base64") from error
        return secret


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


class Settings(BaseSettings):
    """All settings of one server."""

    model_config = SettingsConfigDict(
        env_prefix="WESEMU_",
        env_nested_delimiter="__",
        toml_file="wesemu.toml",
        extra="forbid",
    )

    data: Path = Path(".wesemu")
    """The data directory: buckets, references, runs, the index. One server at a time."""

    adopt_data: bool = False
    """Use `data` although it holds files of others and no server has used it before."""

    host: str = "127.0.0.1"
    """The address to listen on; another than loopback wants credentials or `insecure`."""

    port: int = Field(default=8070, ge=0, le=65535)
    """The port to listen on; 0 takes a free one."""

    socket: Path | None = None
    """A unix socket to listen on instead of `host` and `port`; only this user reaches it."""

    log_format: Literal["text", "json"] = "text"
    """The lines on stderr: for people, or one JSON object a line."""

    insecure: bool = False
    """Listen beyond loopback although nobody has to show credentials."""

    hosts: list[str] = Field(default_factory=lambda: ["*.aliyuncs.com"])
    """Names that a server without credentials on loopback answers to, besides loopback's own:
    those that a hosts file points here. Others are refused, for a web page might be behind them."""

    controls: bool = True
    """Offer the emulator's own controls below `/_wesemu/`; `health` and `ready` always answer."""

    keep_runs: bool = False
    """Let running workflows go on when the server stops; otherwise they end and are resumed."""

    auth: AuthSettings = Field(default_factory=AuthSettings)
    server: ServerSettings = Field(default_factory=ServerSettings)
    wes: WesSettings = Field(default_factory=WesSettings)
    callbacks: CallbackSettings = Field(default_factory=CallbackSettings)
    workflows: WorkflowSettings = Field(default_factory=WorkflowSettings)
    clock: ClockSettings = Field(default_factory=ClockSettings)
    sla: SlaSettings = Field(default_factory=SlaSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    node: NodeSettings = Field(default_factory=NodeSettings)
    inputs: InputSettings = Field(default_factory=InputSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)

    remote_buckets: dict[
        Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$")], RemoteBucketSettings
    ] = Field(default_factory=dict)
    """Buckets that lie elsewhere, by the name that they have here; such a name wins over a folder
    of the same name."""
    parabricks: ParabricksSettings = Field(default_factory=ParabricksSettings)

    tools: dict[str, str] = Field(default_factory=dict)
    """Commands of the bundled pipelines' tools instead of those that are found: `bwa`, `samtools`,
    `bcftools`, `minimap2`, `bwa-mem2`, `freebayes`, `gatk`, `deepvariant`; `wheel`: the one in the
    Python wheel."""

    mappers: dict[str, str] = Field(default_factory=dict)
    """Mappers that you bring: a name that requests may choose = a command template."""

    @field_validator("tools")
    @classmethod
    def _commands(cls, tools: dict[str, str]) -> dict[str, str]:
        return check_commands(tools)

    @field_validator("mappers")
    @classmethod
    def _usable(cls, mappers: dict[str, str]) -> dict[str, str]:
        for name, template in mappers.items():
            if name in MAPPERS:
                raise ValueError(f"{name} is a mapper of its own; choose another name")
            try:
                check_template(name, template)
            except InvalidRequest as error:
                raise ValueError(error.message) from error
        return mappers

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        if isinstance(env_settings, EnvSettingsSource):  # WESEMU_SERVER is no table `server`
            variables = env_settings.env_vars.items()
            env_settings.env_vars = {
                name: value for name, value in variables if name.upper() not in _OF_CLIENTS
            }
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


_OF_CLIENTS = {"WESEMU_SERVER", "WESEMU_TOKEN"}
"""Variables of the command line's client verbs."""


def unknown_variables() -> list[str]:
    """`WESEMU_*` variables of the environment that name no setting."""
    known = {f"WESEMU_{name.upper()}" for name in Settings.model_fields} | _OF_CLIENTS
    return sorted(
        name
        for name in os.environ
        if name.startswith("WESEMU_") and name.partition("__")[0] not in known
    )
