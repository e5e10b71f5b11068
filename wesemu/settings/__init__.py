"""All settings: command-line flags win, then `WESEMU_*` variables, then `./wesemu.toml`.

Unknown keys are errors. In the environment, two underscores separate nested keys:
`WESEMU_AUTH__TOKENS='{"secret": "alice"}'`. `server` and `runs` declare the groups.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from wesemu.errors import InvalidRequest
from wesemu.genomics.mappers import check_template
from wesemu.genomics.tools import check_commands
from wesemu.settings.runs import (
    ClockSettings,
    EngineSettings,
    GpuSettings,
    InputSettings,
    LimitSettings,
    NodeSettings,
    ParabricksSettings,
    RemoteBucketSettings,
    RetentionSettings,
    SlaSettings,
    WdlSettings,
    WorkflowSettings,
)
from wesemu.settings.server import (
    AuthSettings,
    CallbackSettings,
    OidcSettings,
    ServerSettings,
    WesSettings,
)
from wesemu.workflows.params import MAPPERS

__all__ = [
    "AuthSettings",
    "CallbackSettings",
    "ClockSettings",
    "EngineSettings",
    "GpuSettings",
    "InputSettings",
    "LimitSettings",
    "NodeSettings",
    "OidcSettings",
    "ParabricksSettings",
    "RemoteBucketSettings",
    "RetentionSettings",
    "ServerSettings",
    "Settings",
    "SlaSettings",
    "WdlSettings",
    "WesSettings",
    "WorkflowSettings",
    "unknown_variables",
]


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
