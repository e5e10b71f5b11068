"""From the locations in a request to files on this machine."""

import re
from dataclasses import dataclass
from pathlib import Path

from wesemu.errors import InvalidRequest, ObjectNotFound, ReferenceNotFound
from wesemu.genomics.reference import ReferenceStore
from wesemu.objects.buckets import SCHEME, Buckets, parse
from wesemu.objects.lanes import lanes
from wesemu.runs.workspace import safe_name
from wesemu.workflows.params import Lane, MappingParams

_FASTA_SUFFIXES = (".fa", ".fasta", ".fna", ".fa.gz", ".fasta.gz", ".fna.gz")


@dataclass(frozen=True, slots=True)
class LaneFiles:
    """One lane's two files (`second` is None if they are interleaved), what the caller called
    them, and the caller's read group."""

    first: Path
    second: Path | None
    first_name: str
    second_name: str
    read_group: str | None

    @property
    def names(self) -> dict[Path, str]:
        """The caller's names by file."""
        names = {self.first: self.first_name}
        return names if self.second is None else names | {self.second: self.second_name}


class Inputs:
    """Finds what a request names. Errors carry the parameter's name. Synchronous, quick."""

    def __init__(self, buckets: Buckets, references: ReferenceStore) -> None:
        self._buckets = buckets
        self._references = references

    def lanes(self, params: MappingParams, attachments: Path | None) -> list[LaneFiles]:
        """Every lane, folders opened up. Raises ObjectNotFound, InvalidRequest, …"""
        found: list[LaneFiles] = []
        for number, lane in enumerate(params.reads):
            found += self._lane(lane, f"reads.{number}", attachments)
        return found

    def reference(self, location: str, attachments: Path | None) -> Path:
        """The FASTA that a reference parameter means (module docstring of `params`)."""
        if not location.startswith(SCHEME):
            if (registered := self._references.find(location)) is not None:
                return registered
            if attachments is not None and "/" not in location and "://" not in location:
                attached = attachments / safe_name(location)
                if attached.is_file():
                    return attached
            raise self._no_reference(location)
        bucket, key = parse(location.rstrip("/"), field="reference")
        path = self._buckets.locate(bucket, key, field="reference")
        if path.is_file():
            return path
        if path.is_dir():
            return _only_fasta(path, location)
        if (registered := self._references.find(key.rpartition("/")[2])) is not None:
            return registered
        raise self._no_reference(location)

    def _lane(self, lane: Lane, field: str, attachments: Path | None) -> list[LaneFiles]:
        first = self._existing(lane.first, f"{field}.first", attachments)
        read_group = lane.read_group and lane.read_group.replace("\\t", "\t")
        if lane.second is None:
            if not first.is_file():
                raise InvalidRequest(
                    f"{lane.first} is a folder; name one interleaved file", field=f"{field}.first"
                )
            return [LaneFiles(first, None, lane.first, "", read_group)]
        second = self._existing(lane.second, f"{field}.second", attachments)
        if first.is_dir() and first == second:
            return _folder(lane, first, lanes(first, field=f"{field}.first"))
        for path, name, mate in ((first, lane.first, "first"), (second, lane.second, "second")):
            if not path.is_file():
                raise InvalidRequest(
                    f"{name} is a folder; name one file, or the same folder for both mates",
                    field=f"{field}.{mate}",
                )
        if first.resolve() == second.resolve():
            raise InvalidRequest(
                f"{lane.first} is named for both mates; name the second mate's file",
                field=f"{field}.second",
            )
        return [LaneFiles(first, second, lane.first, lane.second, read_group)]

    def _existing(self, location: str, field: str, attachments: Path | None) -> Path:
        if location.startswith(SCHEME):
            return self._buckets.existing(location, field=field)
        if "://" in location or location.startswith("/"):
            raise InvalidRequest(
                f"{location[:80]!r} is not in a bucket; copy the file into a bucket and write "
                "oss://<bucket>/<key>, or send it as an attachment and write its name",
                field=field,
            )
        path = (attachments or Path()) / safe_name(location)
        if attachments is None or not path.is_file():
            raise ObjectNotFound(
                f"{location[:80]!r} is not an attachment of this request; send it along, or "
                "write oss://<bucket>/<key>",
                field=field,
            )
        return path

    def _no_reference(self, location: str) -> ReferenceNotFound:
        names = ", ".join(self._references.names()) or "none yet"
        return ReferenceNotFound(
            f"there is no reference {location[:80]!r}: it is neither a FASTA file in the bucket, "
            f"a folder with one FASTA, nor a registered name ({names}); `wesemu reference add "
            "NAME FILE` registers one",
            field="reference",
        )


def _folder(lane: Lane, folder: Path, pairs: list[tuple[Path, Path]]) -> list[LaneFiles]:
    """The lanes of a folder. A read group given for the folder is told apart by lane, in its ID."""
    prefix = lane.first.rstrip("/")
    found = []
    for number, (first, second) in enumerate(pairs, start=1):
        read_group = lane.read_group and lane.read_group.replace("\\t", "\t")
        if read_group and len(pairs) > 1:
            read_group = re.sub(r"(\tID:[^\t]*)", rf"\1.L{number}", read_group, count=1)
        found.append(
            LaneFiles(
                first,
                second,
                f"{prefix}/{first.relative_to(folder)}",
                f"{prefix}/{second.relative_to(folder)}",
                read_group,
            )
        )
    return found


def _only_fasta(folder: Path, location: str) -> Path:
    found = sorted(path for path in folder.iterdir() if path.name.lower().endswith(_FASTA_SUFFIXES))
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:5]) or "none"
        raise InvalidRequest(
            f"the folder {location} holds {len(found)} FASTA files ({names}); name the file",
            field="reference",
        )
    if not found[0].resolve().is_relative_to(folder.resolve()):
        raise InvalidRequest(
            f"{found[0].name} in {location} is a link that leaves the folder", field="reference"
        )
    return found[0]
