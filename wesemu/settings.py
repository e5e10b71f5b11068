"""Every setting, once. Flags win over `WESEMU_*`, those over `./wesemu.toml`, that over defaults.

Unknown keys are refused. Nested keys are written with two underscores in the environment:
`WESEMU_AUTH__TOKENS='{"secret": "alice"}'`.
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)


class AuthSettings(BaseModel):
    """Who may come in. With neither keys nor tokens everybody is the owner `local`."""

    model_config = ConfigDict(extra="forbid")

    ags_keys: dict[str, str] = Field(default_factory=dict)
    """AGS: access key id = secret; the id is the owner."""

    tokens: dict[str, str] = Field(default_factory=dict)
    """WES: bearer token = owner."""


class WesSettings(BaseModel):
    """How `/ga4gh/wes/v1` answers."""

    model_config = ConfigDict(extra="forbid")

    version: Literal["0.3.0", "1.0.0", "1.0.1", "1.1.0"] = "0.3.0"
    """The WES version of the unversioned path."""


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

    keep_runs: bool = False
    """Let running workflows go on when the server stops; otherwise they end and are resumed."""

    auth: AuthSettings = Field(default_factory=AuthSettings)
    wes: WesSettings = Field(default_factory=WesSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    node: NodeSettings = Field(default_factory=NodeSettings)

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
