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
    """The data directory with buckets, references, runs and the index. One server at a time."""

    adopt_data: bool = False
    """Use `data` although it contains files of others and no server has used it before."""

    host: str = "127.0.0.1"
    """The address to listen on; addresses other than loopback need credentials or `insecure`."""

    port: int = Field(default=8070, ge=0, le=65535)
    """The port to listen on; 0: a free one."""

    socket: Path | None = None
    """A unix socket to listen on instead of `host` and `port`; only this user can use it."""

    log_format: Literal["text", "json"] = "text"
    """Format of the log on stderr: text, or one JSON object per line."""

    insecure: bool = False
    """Listen beyond loopback without credentials."""

    hosts: list[str] = Field(default_factory=lambda: ["*.aliyuncs.com"])
    """Host names, besides those of loopback, that a server without credentials on loopback accepts.
    Other names are refused: a web page could use them for DNS rebinding."""

    controls: bool = True
    """Offer the control API below `/_wesemu/`; `health` and `ready` are always there."""

    keep_runs: bool = False
    """Let workflows go on when the server stops; otherwise they stop and the next server resumes
    them."""

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
    """Remote buckets by their local names; they take precedence over folders of the same name."""
    parabricks: ParabricksSettings = Field(default_factory=ParabricksSettings)

    tools: dict[str, str] = Field(default_factory=dict)
    """Commands for tools of the bundled pipelines, instead of those on PATH: `bwa`, `samtools`,
    `bcftools`, `minimap2`, `bwa-mem2`, `freebayes`, `gatk`, `deepvariant`. The command `wheel` is
    the tool in the Python wheel."""

    mappers: dict[str, str] = Field(default_factory=dict)
    """Additional mappers: name in requests = command template."""

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
        # WESEMU_SERVER and WESEMU_TOKEN belong to the client, not to the group `server`.
        if isinstance(env_settings, EnvSettingsSource):
            variables = env_settings.env_vars.items()
            env_settings.env_vars = {
                name: value for name, value in variables if name.upper() not in _CLIENT_VARIABLES
            }
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


_CLIENT_VARIABLES = {"WESEMU_SERVER", "WESEMU_TOKEN"}
"""Variables of the client commands."""


def unknown_variables() -> list[str]:
    """Return the `WESEMU_*` environment variables that are not settings."""
    known = {f"WESEMU_{name.upper()}" for name in Settings.model_fields} | _CLIENT_VARIABLES
    return sorted(
        name
        for name in os.environ
        if name.startswith("WESEMU_") and name.partition("__")[0] not in known
    )
