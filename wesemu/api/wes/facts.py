"""What a server says of itself in service-info, and how much it takes in one request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class EngineParameter:
    """A parameter that `workflow_engine_parameters` may hold, with its default as text."""

    name: str
    type: str
    default: str


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """`workflow_types` maps a WES workflow_type to its versions, `engines` a name to a version,
    `bundled` the name of a pipeline that needs no attachment to its workflow_type, `carriers` a
    workflow_type to the engine that carries it out.

    `id` is a reversed domain name. `contact` (`mailto:` too), `documentation`, `home` (of the
    organization) and `auth_instructions` are URLs; where WES requires one that is None, the
    server's own address stands in. `created` is when the service was first set up, `updated`
    when this version was.
    """

    version: str
    created: datetime
    workflow_types: Mapping[str, Sequence[str]]
    engines: Mapping[str, str]
    bundled: Mapping[str, str]
    carriers: Mapping[str, str] = field(default_factory=dict)
    updated: datetime | None = None
    parameters: Sequence[EngineParameter] = ()
    protocols: Sequence[str] = ("oss",)
    id: str = "local.wesemu"
    name: str = "wesemu"
    description: str = "A local emulator of WES and AGS that runs real genomics pipelines"
    organization: str = "wesemu"
    home: str | None = None
    contact: str | None = None
    documentation: str | None = None
    auth_instructions: str | None = None
    environment: str = "dev"
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one submission; bytes, but for `parts`.

    `field` bounds one text field, `body` a JSON or urlencoded body, `upload` a whole multipart
    one with its attachments.
    """

    field: int = 1 << 20
    body: int = 4 << 20
    upload: int = 64 << 30
    parts: int = 1000
