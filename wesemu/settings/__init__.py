"""All settings: command-line flags win, then `WESEMU_*` variables, then `./wesemu.toml`.

Unknown keys are errors. In the environment, two underscores separate nested keys:
`WESEMU_AUTH__TOKENS='{"secret": "alice"}'`.

Groups are declared beside their consumers, or here: the core and the programs of run processes do
not import pydantic.
"""

import base64
import os
import tomllib
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from wesemu.api.connections import check_public_url
from wesemu.api.csrf import check_origin
from wesemu.errors import InvalidRequest
from wesemu.genomics.mappers import check_template
from wesemu.genomics.tools import check_commands
from wesemu.node import NodeSettings
from wesemu.runs.clock import FASTEST
from wesemu.runs.model import Pacing
from wesemu.storage.buckets import BUCKET_NAME
from wesemu.storage.remote import RemoteBucketSettings
from wesemu.util.text import is_host
from wesemu.workflows.locations import InputSettings, SettingPath
from wesemu.workflows.params import MAPPERS

_NotEmpty = Annotated[str, Field(min_length=1)]


class OidcSettings(BaseModel):
    """JSON Web Tokens of an OpenID Connect issuer. Needs the extra `oidc`."""

    model_config = ConfigDict(extra="forbid")

    issuer: str = Field(default="", pattern=r"^(https?://[^?#\s]+)?$")
    """The issuer's URL, exactly as in `iss` of its tokens; empty: none."""
    audiences: list[_NotEmpty] = Field(default_factory=list)
    """Accepted values of `aud`; a token must have one of them."""
    jwks: str = ""
    """URL or file of the issuer's keys; empty: from its discovery document."""
    owner_claim: str = Field(default="sub", min_length=1)
    """The claim with the owner."""
    scopes: list[_NotEmpty] = Field(default_factory=list)
    """Scopes that a token must have (all of them)."""
    leeway_seconds: float = Field(default=30.0, ge=0, le=300, allow_inf_nan=False)
    """Tolerance for clocks that differ, in seconds."""

    @model_validator(mode="after")
    def _has_audience(self) -> Self:
        if self.issuer and not self.audiences:
            raise ValueError(
                "set the audiences of tokens for this server; without them, tokens for any other "
                "service of the issuer would be accepted"
            )
        return self


class AuthSettings(BaseModel):
    """Credentials. Without keys, tokens and issuer, every caller is the owner `local`."""

    model_config = ConfigDict(extra="forbid")

    ags_keys: dict[_NotEmpty, _NotEmpty] = Field(default_factory=dict)
    """AGS and OSS: access key id = secret; the id is the owner."""

    tokens: dict[_NotEmpty, _NotEmpty] = Field(default_factory=dict)
    """WES: bearer token = owner."""
    oidc: OidcSettings = Field(default_factory=OidcSettings)

    admin_token: str = ""
    """The bearer token for the control API below `/_wesemu/`; without one, only this machine may
    use it."""

    @property
    def bearers(self) -> bool:
        """Whether WES requires tokens."""
        return bool(self.tokens or self.oidc.issuer)

    @property
    def closed(self) -> bool:
        """Whether any API requires credentials."""
        return bool(self.ags_keys) or self.bearers


class ServerSettings(BaseModel):
    """Connections and addresses of the server."""

    model_config = ConfigDict(extra="forbid")

    connections: int = Field(default=0, ge=0, le=100_000)
    """Maximum of open connections; 0: what the limit of open files allows, at most 4096."""

    idle_seconds: float = Field(default=75.0, gt=0, le=86_400, allow_inf_nan=False)
    """Seconds after which a connection without a request is closed."""

    header_seconds: float = Field(default=30.0, gt=0, le=3600, allow_inf_nan=False)
    """Most seconds for the headers of a request."""

    stalled_seconds: float = Field(default=120.0, gt=0, le=86_400, allow_inf_nan=False)
    """Seconds after which a connection is closed if its request body or response makes no
    progress."""

    public_url: str = ""
    """The server's address for URLs in responses; empty: the address in each request."""

    trusted_proxies: list[IPv4Network | IPv6Network | Literal["unix"]] = Field(default_factory=list)
    """Proxies whose headers about the client are trusted: `["127.0.0.1/32", "unix"]`."""

    cors_origins: list[str] = Field(default_factory=list)
    """Origins of web pages that may call the APIs: `["https://portal.example.org"]`."""

    @field_validator("public_url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        return check_public_url(url)

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: list[str]) -> list[str]:
        return [check_origin(origin) for origin in origins]


class WesSettings(BaseModel):
    """The WES API."""

    model_config = ConfigDict(extra="forbid")

    version: Literal["0.3.0", "1.0.0", "1.0.1", "1.1.0"] = "0.3.0"
    """The WES version of the unversioned path."""


class CallbackSettings(BaseModel):
    """Callbacks of runs with a `callback_url`."""

    model_config = ConfigDict(extra="forbid")

    secret: str = ""
    """Secret for signatures (Standard Webhooks): `whsec_` and base64, or plain text."""

    networks: list[IPv4Network | IPv6Network] = Field(default_factory=list)
    """Networks that are not public but may receive callbacks: `["127.0.0.0/8"]`."""

    @field_validator("secret")
    @classmethod
    def _decodable(cls, secret: str) -> str:
        if secret.startswith("whsec_"):
            try:
                base64.b64decode(secret.removeprefix("whsec_"), validate=True)
            except ValueError as error:
                raise ValueError("the text after whsec_ must be base64") from error
        return secret


class WorkflowSettings(BaseModel):
    """Workflows of users and workflows by URL."""

    model_config = ConfigDict(extra="forbid")

    fetch: bool = True
    """Fetch `http:`, `https:` and `trs:` URLs in `workflow_url`."""
    hosts: list[str] = Field(default_factory=lambda: ["*"])
    """Allowed hosts, with `*` as wildcard: `["raw.githubusercontent.com", "dockstore.org"]`."""
    networks: list[IPv4Network | IPv6Network] = Field(default_factory=list)
    """Networks that are not public but may provide workflows: `["10.0.0.0/8"]`."""
    folders: list[SettingPath] = Field(default_factory=list)
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
    """`real`: a job ends when its tools have ended. `sla`: it also waits for the minutes of its
    service level on the emulated clock."""

    bases_factor: Decimal = Field(default=Decimal(1), gt=0, le=10**9, allow_inf_nan=False)
    """Factor for the counted base pairs in service level and price."""

    read_length_penalty: bool = False
    """Give reads below 150 bp up to 30 % more time, as on the billing page."""


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

    lazy: list[Literal["snakemake", "cwltool", "miniwdl"]] = ["cwltool", "miniwdl"]
    """Engines that start with their first run, not with the server. A started engine is a process
    of 50 to 70 MiB; each run is forked from it."""

    sandbox: Literal["auto", "landlock", "bubblewrap", "none"] = "auto"
    """Sandbox that keeps workflows of users in their run directory. `auto`: Landlock if the kernel
    has it (Linux 5.13), otherwise none; `landlock`: do not start without it; `bubblewrap`: the
    program bwrap, which also hides other processes, but each workflow starts more slowly."""

    network: bool = True
    """Allow workflows of users to use the network."""

    deployment: list[Literal["conda", "apptainer"]] = Field(default_factory=list)
    """What Snakemake uses in users' workflows: `conda:` environments, `container:` images. Without
    this setting, runs ignore them with a warning. It needs conda or apptainer, and each run starts
    more slowly."""

    readable: list[SettingPath] = Field(default_factory=list)
    """Files and folders that sandboxed workflows may read even if they are in the data directory or
    contain credentials."""

    writable: list[SettingPath] = Field(default_factory=list)
    """Folders that sandboxed workflows may write to, besides their run directory."""

    environment: list[str] = Field(default_factory=list)
    """Environment variables to pass to tasks even if their names look like secrets, with `*` as
    wildcard: `["AWS_*"]`."""

    wdl: WdlSettings = Field(default_factory=WdlSettings)


class LimitSettings(BaseModel):
    """Limits of runs and owners; 0: no limit."""

    model_config = ConfigDict(extra="forbid")

    run_minutes: float = Field(default=0, ge=0, le=10**9, allow_inf_nan=False)
    """Maximum duration of a run after its start, in minutes of the wall clock."""

    bytes: int = Field(default=0, ge=0)
    """Maximum size of a run directory in bytes."""

    runs_per_owner: int = Field(default=0, ge=0)
    """Maximum number of queued and active runs of an owner."""


class RetentionSettings(BaseModel):
    """Removal of ended runs."""

    model_config = ConfigDict(extra="forbid")

    days: float = Field(default=0, ge=0, le=10**6, allow_inf_nan=False)
    """Days after which ended runs are removed, with their directories; results in buckets stay.
    0: never."""


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


class Settings(BaseSettings):
    """All settings of one server."""

    model_config = SettingsConfigDict(
        env_prefix="WESEMU_", env_nested_delimiter="__", extra="forbid"
    )

    configuration: ClassVar[Path] = Path("wesemu.toml")

    data: SettingPath = Path(".wesemu")
    """The data directory with buckets, references, runs and the index. One server at a time."""

    adopt_data: bool = False
    """Use `data` even if it contains other files and no server has used it before."""

    seed: SettingPath | None = None
    """A folder to start with: its folders become buckets, its FASTA files references. A reset
    restores it."""

    init: SettingPath | None = None
    """A folder of scripts that run, in the order of their names, before the server is ready."""

    host: str = "127.0.0.1"
    """The address to listen on; addresses other than loopback need credentials or `insecure`."""

    port: int = Field(default=8070, ge=0, le=65535)
    """The port to listen on; 0: a free one."""

    socket: SettingPath | None = None
    """A unix socket to listen on instead of `host` and `port`; only this user can use it."""

    log_format: Literal["text", "json"] = "text"
    """Format of the log on stderr: text, or one JSON object per line."""

    insecure: bool = False
    """Listen beyond loopback without credentials."""

    hosts: list[str] = Field(default_factory=lambda: ["*.aliyuncs.com"])
    """Host names that a server without credentials accepts on loopback, in addition to loopback
    names. It refuses others, because web pages could use them for DNS rebinding."""

    controls: bool = True
    """Offer the control API below `/_wesemu/`; `health` and `ready` are always there."""

    keep_runs: bool = False
    """Let workflows continue when the server stops; otherwise they stop, and the next server
    resumes them."""

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
        Annotated[str, Field(pattern=f"^{BUCKET_NAME.pattern}$")], RemoteBucketSettings
    ] = Field(default_factory=dict)
    """Remote buckets by their local names; they take precedence over folders of the same name."""
    parabricks: ParabricksSettings = Field(default_factory=ParabricksSettings)

    tools: dict[str, str] = Field(default_factory=dict)
    """Commands for tools of the bundled pipelines, instead of those on PATH: `bwa`, `samtools`,
    `bcftools`, `minimap2`, `bwa-mem2`, `freebayes`, `gatk`, `deepvariant`. The command `wheel` is
    the tool in the Python wheel."""

    mappers: dict[str, str] = Field(default_factory=dict)
    """Additional mappers: name in requests = command template."""

    @field_validator("host")
    @classmethod
    def _is_host(cls, host: str) -> str:
        try:
            ip_address(host.partition("%")[0])
        except ValueError:
            if not is_host(host) or set("/:[]@?#").intersection(host):
                raise ValueError(
                    "must be an address or a name without a port, such as 127.0.0.1 or ::1"
                ) from None
        return host

    @field_validator("tools")
    @classmethod
    def _commands(cls, tools: dict[str, str]) -> dict[str, str]:
        return check_commands(tools)

    @field_validator("mappers")
    @classmethod
    def _usable(cls, mappers: dict[str, str]) -> dict[str, str]:
        for name, template in mappers.items():
            if name in MAPPERS:
                raise ValueError(f"{name} is a built-in mapper; choose another name")
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
        # Variables of the command line, such as WESEMU_SERVER, are not settings.
        if isinstance(env_settings, EnvSettingsSource):
            variables = env_settings.env_vars.items()
            env_settings.env_vars = {
                name: value for name, value in variables if name.upper() not in _CLIENT_VARIABLES
            }
        content = InitSettingsSource(settings_cls, read_file(cls.configuration))
        return init_settings, env_settings, content


_LARGEST_FILE = 1 << 20
"""Bytes of a configuration file. That of all settings has 10,000."""


def read_file(file: Path) -> dict[str, Any]:
    """Return the content of a configuration file, {} if there is none. Raises ValueError, OSError.

    A byte order mark, which editors on Windows write, is ignored.
    """
    if not os.path.lexists(file):
        return {}
    if not file.is_file():  # such as the folder that docker makes for a missing file
        raise ValueError("it is a folder, or not an ordinary file")
    if file.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"it is larger than {_LARGEST_FILE >> 20} MiB")
    try:
        return tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8, from byte {error.start} on") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def settings_from(file: Path, **values: Any) -> Settings:
    """Return the settings with `file` in place of ./wesemu.toml. `values` take precedence.

    Raises pydantic's ValidationError, SettingsError for a variable, ValueError for the file.
    """

    class FileSettings(Settings):
        configuration = file

    return FileSettings(**values)


_CLIENT_VARIABLES = {"WESEMU_SERVER", "WESEMU_TOKEN", "WESEMU_CONFIG"}
"""Variables of the command line."""


def unknown_variables() -> list[str]:
    """Return the `WESEMU_*` environment variables that are not settings."""
    known = {f"WESEMU_{name.upper()}" for name in Settings.model_fields} | _CLIENT_VARIABLES
    return sorted(
        name
        for name in os.environ
        if name.startswith("WESEMU_") and name.partition("__")[0] not in known
    )
