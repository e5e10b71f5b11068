"""Label each record of a BAM with its library: `python -m wesemu.genomics.libraries`.

Reads BAM from stdin and writes uncompressed BAM with the tag LB to stdout. `samtools markdup
--barcode-tag LB` then compares records of one library only, as Picard does; by itself it knows
read groups, but not which of them share a library.
"""

import sys

import pysam

UNKNOWN_GROUP = 70


def label(source: pysam.AlignmentFile, target: pysam.AlignmentFile) -> None:
    """Raises KeyError for a record whose read group the header does not have."""
    groups = source.header.to_dict().get("RG", [])
    library_of = {group["ID"]: group.get("LB") or group.get("SM", "") for group in groups}
    for record in source:
        record.set_tag("LB", library_of[record.get_tag("RG")], "Z")
        target.write(record)


def main() -> int:
    """Answers the exit status."""
    with (
        pysam.AlignmentFile("-", "rb", check_sq=False) as source,
        pysam.AlignmentFile("-", "wbu", template=source) as target,
    ):
        try:
            label(source, target)
        except KeyError as error:
            sys.stderr.write(
                f"libraries: a record has no read group of the header ({error}). The mapper must "
                "write the tag RG.\n"
            )
            return UNKNOWN_GROUP
    return 0


if __name__ == "__main__":
    sys.exit(main())
