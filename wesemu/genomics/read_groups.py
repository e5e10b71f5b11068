"""Read groups of a sample's lanes: parse, check and complete them (SAM specification 1.3, @RG).

Also checks that no file is in two lanes. `python -m wesemu.genomics.read_groups` is a filter that
labels each record of a BAM with its library; pysam is imported there only.
"""

import os
import re
import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from wesemu.errors import InvalidRequest

if TYPE_CHECKING:
    import pysam

UNKNOWN_GROUP = 70


def label(source: "pysam.AlignmentFile", target: "pysam.AlignmentFile") -> None:
    """Copy records with their library in the tag LB.

    Raises KeyError for a record whose read group is not in the header.
    """
    groups = source.header.to_dict().get("RG", [])
    library_of = {group["ID"]: group.get("LB") or group.get("SM", "") for group in groups}
    for record in source:
        record.set_tag("LB", library_of[record.get_tag("RG")], "Z")
        target.write(record)


def main() -> int:
    """Return the exit status."""
    import pysam

    with (
        pysam.AlignmentFile("-", "rb", check_sq=False) as source,
        pysam.AlignmentFile("-", "wbu", template=source) as target,
    ):
        try:
            label(source, target)
        except KeyError as error:
            sys.stderr.write(
                f"read_groups: a record has no read group of the header ({error}). The mapper must "
                "write the tag RG.\n"
            )
            return UNKNOWN_GROUP
    return 0


# Each file may be in one lane only.


class NamedFile(NamedTuple):
    """A file of a lane: the entry in the request (`reads.0.first`), the caller's name for the file,
    and an identity that is equal for the same file only."""

    entry: str
    name: str
    identity: Hashable


def file_identity(path: str | Path) -> Hashable:
    """Return an identity that all names of a file share: links, other spellings of the path."""
    try:
        status = Path(path).stat()
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def check_files_differ(lanes: Iterable[Iterable[NamedFile]]) -> None:
    """Raise `InvalidRequest` for a file that is in two lanes: its reads would count twice.

    `PairedReader` checks that the mates of one lane differ.
    """
    seen: dict[Hashable, NamedFile] = {}
    for lane in lanes:
        files = list(lane)
        for file in files:
            if (other := seen.get(file.identity)) is not None:
                names = dict.fromkeys((other.name, file.name))
                raise InvalidRequest(
                    f"{other.entry} and {file.entry} are the same file ({' and '.join(names)}); "
                    "its reads would count twice. Name each file once.",
                    field=file.entry,
                )
        seen |= {file.identity: file for file in files}


# Read groups.

DEFAULT_SAMPLE = "sample"
"""The name of a sample without a name."""

_STANDARD = frozenset(
    {"BC", "CN", "DS", "DT", "FO", "ID", "KS", "LB", "PG", "PI", "PL", "PM", "PU", "SM"}
)
_TAG = re.compile(r"[A-Za-z][A-Za-z0-9]")
_LOST_TAB = re.compile(rf" (?:{'|'.join(sorted(_STANDARD))}):")
_EXAMPLE = r"Write for example '@RG\tID:L1\tSM:sample\tLB:library'."


class ReadGroup(NamedTuple):
    """The fields of an @RG line in order; ID is always present."""

    fields: Mapping[str, str]

    @property
    def id(self) -> str:
        return self.fields["ID"]

    @property
    def sample(self) -> str | None:
        return self.fields.get("SM")

    @property
    def library(self) -> str:
        """LB, or the sample without LB. Duplicates are marked within a library."""
        return self.fields.get("LB") or self.sample or ""

    @property
    def line(self) -> str:
        """The @RG line with tabs between the fields."""
        return "\t".join(["@RG", *(f"{tag}:{value}" for tag, value in self.fields.items())])

    def with_fields(self, **fields: str) -> Self:
        return type(self)({**self.fields, **fields})


def parse_read_group(text: str) -> ReadGroup:
    r"""Parse an @RG line. Tabs may be written as \t, and one pair of double quotes may surround the
    line, as in AGS's published commands. Raises `InvalidRequest`."""
    line = text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
    line = line.replace("\\t", "\t")
    if fault := _fault_of_line(line):
        raise _refused(text, fault)
    fields: dict[str, str] = {}
    for field in line.split("\t")[1:]:
        tag, _, value = field.partition(":")
        if fault := _fault_of_field(field, tag, value):
            raise _refused(text, fault)
        if tag in fields:
            raise _refused(text, f"the tag {tag} is there twice")
        fields[tag] = value
    if "ID" not in fields:
        raise _refused(text, "it has no ID")
    return ReadGroup(fields)


def _fault_of_line(line: str) -> str | None:
    if not line.startswith("@RG\t"):
        return r"it must begin with @RG and a tab (\t)"
    if any(letter in line for letter in "\r\n"):
        return "it must be one line"
    if "\\" in line:
        return r"a backslash is allowed only in \t"
    if "{" in line or "}" in line:
        return "braces are not allowed, because Snakemake takes them for wildcards"
    if not line.isascii() or not line.replace("\t", "").isprintable():
        return "SAM allows printable ASCII letters only"
    if line.endswith('"') and line.count('"') % 2:
        return "it ends with a double quote that has no partner"
    return None


def _fault_of_field(field: str, tag: str, value: str) -> str | None:
    if not _TAG.fullmatch(tag) or ":" not in field:
        return f"the field {field!r} is not of the form TAG:VALUE"
    if tag.upper() in _STANDARD and tag not in _STANDARD:
        return f"the tag {tag} must be written {tag.upper()}"
    if not value.strip():
        return f"the tag {tag} has no value"
    if value != value.strip():
        return f"the value of {tag} begins or ends with a blank"
    if tag != "DS" and (lost := _LOST_TAB.search(value)):
        return f"a tab must stand before {lost[0].strip()}, not a blank"
    return None


def _refused(text: str, fault: str) -> InvalidRequest:
    return InvalidRequest(
        f"{text[:200]!r} is not a read group: {fault}. {_EXAMPLE}", field="read_group"
    )


def complete_read_groups(
    texts: Sequence[str | None], sample: str = DEFAULT_SAMPLE, *, entries: Sequence[str] = ()
) -> list[ReadGroup]:
    """Return the read groups of all lanes of a run.

    `texts` has the @RG line of each lane, or None. `entries` name the lanes in messages (default:
    `reads.0`, `reads.1`, …). A missing SM becomes `sample`; if that has its default, the SM of the
    other lanes. Raises `InvalidRequest`, naming both entries, for two lanes with one ID and for two
    samples.
    """
    entries = entries or [f"reads.{number}" for number in range(len(texts))]
    given = [_parse_entry(text, entry) for text, entry in zip(texts, entries, strict=True)]
    sample = _one_sample(given, sample, entries)
    groups = []
    for number, group in enumerate(given, 1):
        if group is None:
            group = _default_group(sample, number)
        groups.append(group if group.sample else group.with_fields(SM=sample))
    _check_ids(groups, entries)
    return groups


def _default_group(sample: str, number: int) -> ReadGroup:
    """Make the read group of a lane without one. Parsing it checks the name of the sample."""
    name = f"{sample}.L{number}"
    try:
        return parse_read_group(f"@RG\tID:{name}\tLB:{sample}\tPL:ILLUMINA\tPU:{name}")
    except InvalidRequest as error:
        error.field = "sample"
        raise


def _parse_entry(text: str | None, entry: str) -> ReadGroup | None:
    try:
        return None if text is None else parse_read_group(text)
    except InvalidRequest as error:
        error.field = f"{entry}.read_group"
        raise


def _one_sample(given: Sequence[ReadGroup | None], sample: str, entries: Sequence[str]) -> str:
    named = [
        (group.sample, f"the read group of {entry}", entry)
        for group, entry in zip(given, entries, strict=True)
        if group is not None and group.sample
    ]
    if sample != DEFAULT_SAMPLE:
        named.insert(0, (sample, "the parameter sample", "sample"))
    if not named:
        return sample
    first, first_place, _ = named[0]
    for other, place, entry in named[1:]:
        if other != first:
            raise InvalidRequest(
                f"{first_place} names the sample {first!r}, {place} the sample {other!r} (SM). A "
                "run is of one sample: send one run for each.",
                field=f"{entry}.read_group",
            )
    return first


def _check_ids(groups: Sequence[ReadGroup], entries: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for group, entry in zip(groups, entries, strict=True):
        if group.id in seen:
            raise InvalidRequest(
                f"{seen[group.id]} and {entry} have the same read group ID {group.id!r}. Give each "
                "lane an ID of its own; lanes of one library share LB.",
                field=f"{entry}.read_group",
            )
        seen[group.id] = entry


def check_for_freebayes(groups: Sequence[ReadGroup], entries: Sequence[str] = ()) -> None:
    """Raise `InvalidRequest` for read groups that freebayes misreads, because it takes blanks for
    tabs: it then finds no variant, or cuts the sample's name. `entries` as above."""
    entries = entries or [f"reads.{number}" for number in range(len(groups))]
    for group, entry in zip(groups, entries, strict=True):
        words = [word for word in re.split("[\t ]", group.line) if word[:3] in ("ID:", "SM:")]
        if sorted(words) != sorted([f"ID:{group.id}", f"SM:{group.sample}"]):
            raise InvalidRequest(
                f"freebayes cannot read {group.line!r}, because it takes blanks for tabs. Take the "
                "blanks out of ID and SM, and words that begin with ID: or SM: out of the others.",
                field=f"{entry}.read_group",
            )


def libraries(groups: Sequence[ReadGroup]) -> list[str]:
    """Return each library once, in the order of the lanes."""
    return list(dict.fromkeys(group.library for group in groups))


if __name__ == "__main__":
    sys.exit(main())
