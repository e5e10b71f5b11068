"""Locations of inputs and results: each text of a request is parsed once, into one kind.

The parts of this module are the kinds of locations, the locations of all inputs of a run, and
`Locations`, which parses them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from wesemu.errors import InvalidRequest, ObjectNotFound
from wesemu.storage.buckets import SCHEME
from wesemu.storage.remote import (
    RemoteBucket,
    RemoteKey,
    WebFile,
    redacted_url,
    split_pin,
    web_file,
)
from wesemu.util.ssrf import AddressGuard, AddressRefused
from wesemu.workflows.params import MappingParams

_S3 = "s3://"
_WEB_SCHEMES = ("http://", "https://")
_FILE = "file://"


@dataclass(frozen=True, slots=True)
class BucketKey:
    """An `oss://` URL of a local bucket; `Buckets` checks its key."""

    url: str


@dataclass(frozen=True, slots=True)
class FileUrl:
    """A `file://` URL; `Locations.file` checks it."""

    url: str


@dataclass(frozen=True, slots=True)
class PlainName:
    """The name of an attachment or of a registered reference, or any other text."""

    name: str


Location = WebFile | RemoteKey | BucketKey | FileUrl | PlainName


@dataclass(frozen=True, slots=True)
class InputLocation:
    """An input of a run: its parameter (`reads.0.first`), the text in the request and its meaning.

    `for_both_mates` is True if both mates of a pair name it: it may be a folder of reads.
    """

    field: str
    text: str
    location: Location
    for_both_mates: bool = False

    @property
    def name(self) -> str:
        """The text without secrets, for messages."""
        return redacted_url(self.text)

    @property
    def is_remote(self) -> bool:
        """True for a location that is fetched after the start of the run."""
        return isinstance(self.location, WebFile | RemoteKey)


@dataclass(frozen=True, slots=True)
class ReadPair:
    """The files of one lane, or a folder of lanes; `second` is None for interleaved reads.

    `field` is the parameter (`reads.0`).
    """

    field: str
    first: InputLocation
    second: InputLocation | None
    read_group: str | None

    @property
    def mates(self) -> tuple[InputLocation, ...]:
        return (self.first,) if self.second is None else (self.first, self.second)

    @property
    def is_remote(self) -> bool:
        return any(mate.is_remote for mate in self.mates)


@dataclass(frozen=True, slots=True)
class RunInputs:
    """All inputs of a run of a bundled pipeline."""

    reads: Sequence[ReadPair]
    reference: InputLocation
    more_files: Sequence[InputLocation]

    def __iter__(self) -> Iterator[InputLocation]:
        for pair in self.reads:
            yield from pair.mates
        yield self.reference
        yield from self.more_files

    @property
    def remote(self) -> list[InputLocation]:
        return [each for each in self if each.is_remote]


def _usable(path: object) -> object:
    if path == "":  # WESEMU_SEED=$SEED without SEED must not mean the current directory
        raise ValueError("an empty path; write '.' for the current directory, or leave it out")
    if "\0" in str(path):
        raise ValueError("a path cannot contain NUL")
    return path


SettingPath = Annotated[Path, BeforeValidator(_usable)]
"""A path in the settings."""


class InputSettings(BaseModel):
    """Inputs from outside the buckets; docs/inputs.md."""

    model_config = ConfigDict(extra="forbid")

    http: bool = True
    """Fetch `http://` and `https://` inputs from public addresses."""

    networks: list[IPv4Network | IPv6Network] = Field(default_factory=list)
    """Networks that are not public but may provide inputs: `["10.0.0.0/8"]`."""

    file_roots: list[SettingPath] = Field(default_factory=list)
    """Folders for `file://` inputs; empty: no such inputs."""

    largest_gib: float = Field(default=1024, gt=0, le=10**9, allow_inf_nan=False)
    """Largest file to download, in GiB."""

    cache_gib: float = Field(default=200, ge=0, le=10**9, allow_inf_nan=False)
    """Size of the cache of downloaded inputs in GiB; the least recently used files are deleted
    first, but none that a run uses."""


@dataclass(frozen=True, slots=True)
class Locations:
    """Parses locations, and decides which of them a caller may use.

    `buckets` are the remote buckets by local name, `roots` the folders for `file://`. `guard`
    checks http addresses.
    """

    buckets: Mapping[str, RemoteBucket] = field(default_factory=dict)
    guard: AddressGuard = field(default_factory=AddressGuard)
    http: bool = False
    roots: Sequence[Path] = ()

    @property
    def protocols(self) -> tuple[str, ...]:
        """The URL schemes allowed for inputs."""
        web = ("http", "https") if self.http else ()
        return ("oss", *(("s3",) if self.buckets else ()), *web, *(("file",) if self.roots else ()))

    def parse(self, text: str, *, field: str | None = None) -> Location:
        """Parse a location, without access to network or disk.

        Raise InvalidRequest for a remote location that is not allowed.
        """
        if text.startswith(_WEB_SCHEMES):
            return self._web(text, field)
        if text.startswith(_FILE):
            return FileUrl(text)
        if text.startswith(_S3) or self._bucket_of(text) is not None:
            return self.key(text, field=field)
        return BucketKey(text) if text.startswith(SCHEME) else PlainName(text)

    def inputs(self, params: MappingParams) -> RunInputs:
        """Parse all inputs. Raise InvalidRequest for a remote location that is not allowed."""

        def parsed(field: str, text: str, *, for_both_mates: bool = False) -> InputLocation:
            return InputLocation(field, text, self.parse(text, field=field), for_both_mates)

        reads = []
        for number, lane in enumerate(params.reads):
            field, both = f"reads.{number}", lane.first == lane.second
            first = parsed(f"{field}.first", lane.first, for_both_mates=both)
            second = None
            if lane.second is not None:
                second = parsed(f"{field}.second", lane.second, for_both_mates=both)
            reads.append(ReadPair(field, first, second, lane.read_group))
        more_files = [parsed(name, text) for name, text in params.more_files.items()]
        return RunInputs(reads, parsed("reference", params.reference), more_files)

    def key(self, location: str, *, field: str | None = None) -> RemoteKey:
        """Parse a location in a remote bucket. Raise InvalidRequest."""
        bucket = self._bucket_of(location)
        name, _, key = location.partition("://")[2].partition("/")
        if bucket is None:
            known = ", ".join(sorted(self.buckets)) or "none"
            raise InvalidRequest(
                f"{redacted_url(location)}: no remote bucket {name[:63]!r} is configured "
                f"(there are: {known}); add remote_buckets.{name[:63]} to the settings",
                field=field,
            )
        pin = None
        if "#sha256=" in key:
            key, pin = split_pin(key, field=field)
        bucket.check(key.removesuffix("/"), field=field)
        return RemoteKey(bucket, key, pin)

    def file(self, location: FileUrl, *, field: str | None = None) -> Path:
        """Return the file or folder at a `file://` URL. Raise InvalidRequest, ObjectNotFound."""
        url = location.url
        try:
            parsed = urlsplit(url)
        except ValueError as error:
            raise InvalidRequest(
                f"{redacted_url(url)} cannot be understood: {error}; write file:///folder/file",
                field=field,
            ) from error
        path = Path(unquote(parsed.path))
        if parsed.netloc not in ("", "localhost") or parsed.query or parsed.fragment:
            raise InvalidRequest(
                f"{redacted_url(url)} is not a file of this machine; write file:///folder/file",
                field=field,
            )
        try:
            inside = any(path.resolve().is_relative_to(root.resolve()) for root in self.roots)
        except (OSError, RuntimeError, ValueError):
            inside = False
        if not inside:
            raise InvalidRequest(
                f"{redacted_url(url)} is outside of the folders in the setting "
                "inputs.file_roots; add its folder there, or copy the file into a bucket",
                field=field,
            )
        if not path.exists():
            raise ObjectNotFound(f"{redacted_url(url)} is not there", field=field)
        return path.resolve()

    def _web(self, location: str, field: str | None) -> WebFile:
        if not self.http:
            raise InvalidRequest(
                f"{redacted_url(location)}: this server fetches no inputs by HTTP (the setting "
                "inputs.http); copy the file into a bucket and write oss://<bucket>/<key>",
                field=field,
            )
        file = web_file(location, field=field)
        try:
            self.guard.check(file.url)
        except AddressRefused as error:
            raise InvalidRequest(f"{file.display_name}: {error}", field=field) from error
        return file

    def _bucket_of(self, location: str) -> RemoteBucket | None:
        if not location.startswith((SCHEME, _S3)):
            return None
        name, _, _ = location.partition("://")[2].partition("/")
        return self.buckets.get(name)
