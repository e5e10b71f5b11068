"""Locations of inputs that are not on this machine: URLs and keys of remote buckets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from wesemu.errors import InvalidRequest, ObjectNotFound
from wesemu.storage.remote import RemoteBucket, WebFile, redacted_url, split_pin, web_file
from wesemu.util.ssrf import AddressGuard, AddressRefused

_BUCKET_SCHEMES = ("oss://", "s3://")
_WEB_SCHEMES = ("http://", "https://")
_FILE = "file://"


@dataclass(frozen=True, slots=True)
class RemoteKey:
    """A key in a remote bucket; `sha256` is what its content is said to be."""

    bucket: RemoteBucket
    key: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class RemoteLocations:
    """Which locations are remote, and which of them a caller may name.

    `buckets` are the remote ones by the name that they have here, `roots` the folders for
    `file://`. `guard` judges http addresses.
    """

    buckets: Mapping[str, RemoteBucket] = field(default_factory=dict)
    guard: AddressGuard = field(default_factory=AddressGuard)
    http: bool = False
    roots: Sequence[Path] = ()

    @property
    def protocols(self) -> tuple[str, ...]:
        """The schemes that inputs can have."""
        web = ("http", "https") if self.http else ()
        return ("oss", *(("s3",) if self.buckets else ()), *web, *(("file",) if self.roots else ()))

    def is_remote(self, location: str) -> bool:
        """True for what has to be fetched before a run can use it, or what cannot be used."""
        if location.startswith(_WEB_SCHEMES) or location.startswith("s3://"):
            return True
        return self._bucket_of(location) is not None

    def is_file(self, location: str) -> bool:
        return location.startswith(_FILE)

    def remote(self, location: str, *, field: str | None = None) -> "WebFile | RemoteKey":
        """What a remote location means. Raises InvalidRequest for one that may not be named;
        asks nobody."""
        if location.startswith(_WEB_SCHEMES):
            return self._web(location, field)
        return self.key(location, field=field)

    def key(self, location: str, *, field: str | None = None) -> RemoteKey:
        """A location in a remote bucket. Raises InvalidRequest."""
        bucket = self._bucket_of(location)
        name, _, key = location.partition("://")[2].partition("/")
        if bucket is None:
            known = ", ".join(sorted(self.buckets)) or "none"
            raise InvalidRequest(
                f"{redacted_url(location)}: no remote bucket {name[:63]!r} is configured "
                "(there are: "
                f"{known}); add remote_buckets.{name[:63]} to the settings",
                field=field,
            )
        pin = None
        if "#sha256=" in key:
            key, pin = split_pin(key, field=field)
        bucket.check(key.removesuffix("/"), field=field)
        return RemoteKey(bucket, key, pin)

    def file(self, location: str, *, field: str | None = None) -> Path:
        """The file or folder of a `file://` URL. Raises InvalidRequest, ObjectNotFound."""
        try:
            parsed = urlsplit(location)
        except ValueError as error:
            raise InvalidRequest(
                f"{redacted_url(location)} cannot be understood: {error}; write file:///folder/file",
                field=field,
            ) from error
        path = Path(unquote(parsed.path))
        if parsed.netloc not in ("", "localhost") or parsed.query or parsed.fragment:
            raise InvalidRequest(
                f"{redacted_url(location)} is no file of this machine; write file:///folder/file",
                field=field,
            )
        try:
            inside = any(path.resolve().is_relative_to(root.resolve()) for root in self.roots)
        except (OSError, RuntimeError, ValueError):
            inside = False
        if not inside:
            raise InvalidRequest(
                f"{redacted_url(location)} is below no folder that the setting "
                "inputs.file_roots opens; "
                "have it opened, or copy the file into a bucket",
                field=field,
            )
        if not path.exists():
            raise ObjectNotFound(f"{redacted_url(location)} is not there", field=field)
        return path.resolve()

    def _web(self, location: str, field: str | None) -> WebFile:
        if not self.http:
            raise InvalidRequest(
                f"{redacted_url(location)}: this server fetches no inputs by HTTP (the setting "
                "inputs.http); copy the file into a bucket and write oss://<bucket>/<key>",
                field=field,
            )
        found = web_file(location, field=field)
        try:
            self.guard.check(found.url)
        except AddressRefused as error:
            raise InvalidRequest(f"{found.display_name}: {error}", field=field) from error
        return found

    def _bucket_of(self, location: str) -> RemoteBucket | None:
        if not location.startswith(_BUCKET_SCHEMES):
            return None
        name, _, _ = location.partition("://")[2].partition("/")
        return self.buckets.get(name)
