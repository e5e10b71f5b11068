"""Every setting, once. Flags win over `WESEMU_*`, those over `./wesemu.toml`, that over defaults.

Unknown keys are refused. Nested keys are written with two underscores in the environment:
`WESEMU_AUTH__TOKENS='{"secret": "alice"}'`.
"""

import base64
import os
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from wesemu.clock import FASTEST
from wesemu.errors import InvalidRequest
from wesemu.genomics.templates import check_template
from wesemu.runs.terms import Pace
from wesemu.workflows.params import MAPPERS


class AuthSettings(BaseModel):
    """Who may come in. With neither keys nor tokens everybody is the owner `local`."""

    model_config = ConfigDict(extra="forbid")

    ags_keys: dict[str, str] = Field(default_factory=dict)
    """AGS: access key id = secret; the id is the owner."""

    tokens: dict[str, str] = Field(default_factory=dict)
    """WES: bearer token = owner."""

    admin_token: str = ""
    """The emulator's own controls below `/_wesemu/` from other machines: the bearer token that
    they need; without one only this machine may use them."""


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
            base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        return secret


class ClockSettings(BaseModel):
    """The emulated clock, which tells when runs were created, begun and ended."""

    model_config = ConfigDict(extra="forbid")

    speed: float = Field(default=1.0, ge=0, le=FASTEST, allow_inf_nan=False)
    """Emulated seconds a real second when the server starts; 600: ten minutes a second."""


class SlaSettings(BaseModel):
    """How AGS's service levels are emulated."""

    model_config = ConfigDict(extra="forbid")

    pace: Pace = Pace.REAL
    """`real`: a job ends when its tools do; `sla`: after its service level's minutes on the
    emulated clock, once its tools are done."""

    bases_factor: Decimal = Field(default=Decimal(1), gt=0, le=10**9, allow_inf_nan=False)
    """Every counted base pair stands for this many in the service level and the price."""

    read_length_penalty: bool = False
    """Reads below 150 bp get up to 30 % more time, as the billing page says."""


class EngineSettings(BaseModel):
    """How workflows are run."""

    model_config = ConfigDict(extra="forbid")

    snakemake: Literal["warm", "cli"] = "warm"
    """`warm`: forked from a process that has Snakemake loaded; `cli`: a cold start each."""


class NodeSettings(BaseModel):
    """What this machine offers to runs."""

    model_config = ConfigDict(extra="forbid")

    cores: int = Field(default=0, ge=0)
    """Cores for all runs together; 0: those that this process may use."""

    memory_mb: int = Field(default=0, ge=0)
    """MiB for all runs together; 0: what the machine or its container has."""

    gpus: Annotated[int, Field(ge=0)] | list[Annotated[int, Field(ge=0)]] = 0
    """How many GPUs the tasks of all runs may use, or the indexes of those they may use."""

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

    runtime: Literal["auto", "native", "docker", "apptainer"] = "auto"
    """`auto`: `pbrun` on PATH, else the image."""

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

    host: str = "127.0.0.1"
    """The address to listen on; another than loopback wants credentials or `insecure`."""

    port: int = Field(default=8070, ge=0, le=65535)
    """The port to listen on; 0 takes a free one."""

    insecure: bool = False
    """Listen beyond loopback although nobody has to show credentials."""

    hosts: list[str] = Field(default_factory=lambda: ["*.aliyuncs.com"])
    """Names that a server without credentials on loopback answers to, besides loopback's own:
    those that a hosts file points here. Others are refused, for a web page might be behind them."""

    keep_runs: bool = False
    """Let running workflows go on when the server stops; otherwise they end and are resumed."""

    auth: AuthSettings = Field(default_factory=AuthSettings)
    wes: WesSettings = Field(default_factory=WesSettings)
    callbacks: CallbackSettings = Field(default_factory=CallbackSettings)
    clock: ClockSettings = Field(default_factory=ClockSettings)
    sla: SlaSettings = Field(default_factory=SlaSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    node: NodeSettings = Field(default_factory=NodeSettings)
    parabricks: ParabricksSettings = Field(default_factory=ParabricksSettings)

    mappers: dict[str, str] = Field(default_factory=dict)
    """Mappers that you bring: a name that requests may choose = a command template."""

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
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def unknown_variables() -> list[str]:
    """`WESEMU_*` variables of the environment that name no setting."""
    known = {f"WESEMU_{name.upper()}" for name in Settings.model_fields} | {"WESEMU_SERVER"}
    return sorted(
        name
        for name in os.environ
        if name.startswith("WESEMU_") and name.partition("__")[0] not in known
    )
