"""Remote locations: web URLs, keys of remote buckets, and file:// URLs."""

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
    """A key in a remote bucket; `sha256` is the pinned checksum of its content."""

    bucket: RemoteBucket
    key: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class RemoteLocations:
    """Decides which locations are remote and which a caller may use.

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

    def is_remote(self, location: str) -> bool:
        """Return True for a location that must be fetched, or is not allowed at all."""
        if location.startswith(_WEB_SCHEMES) or location.startswith("s3://"):
            return True
        return self._bucket_of(location) is not None

    def is_file(self, location: str) -> bool:
        return location.startswith(_FILE)

    def remote(self, location: str, *, field: str | None = None) -> "WebFile | RemoteKey":
        """Parse a remote location, without network access.

        Raise InvalidRequest for a location that is not allowed.
        """
        if location.startswith(_WEB_SCHEMES):
            return self._web(location, field)
        return self.key(location, field=field)

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

    def file(self, location: str, *, field: str | None = None) -> Path:
        """Return the file or folder of a `file://` URL. Raise InvalidRequest, ObjectNotFound."""
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
                f"{redacted_url(location)} is not a file of this machine; write file:///folder/file",
                field=field,
            )
        try:
            inside = any(path.resolve().is_relative_to(root.resolve()) for root in self.roots)
        except (OSError, RuntimeError, ValueError):
            inside = False
        if not inside:
            raise InvalidRequest(
                f"{redacted_url(location)} is below no folder that the setting "
                "inputs.file_roots opens; add the folder there, or copy the file into a bucket",
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
        file = web_file(location, field=field)
        try:
            self.guard.check(file.url)
        except AddressRefused as error:
            raise InvalidRequest(f"{file.display_name}: {error}", field=field) from error
        return file

    def _bucket_of(self, location: str) -> RemoteBucket | None:
        if not location.startswith(_BUCKET_SCHEMES):
            return None
        name, _, _ = location.partition("://")[2].partition("/")
        return self.buckets.get(name)
