"""bwa mem through pybwa: THREADS FASTA READS_1 READS_2 READ_GROUP, BAM to stdout.

A script as the documentation of pybwa suggests, without checks and counts.
"""

import queue
import sys
import threading
from collections.abc import Iterator

import pysam
from pybwa import BwaMem, BwaMemOptions

_BATCH_BASES = 10_000_000


def main(threads: str, fasta: str, first: str, second: str, group: str) -> None:
    options = BwaMemOptions(
        interleaved_paired_end=True,
        threads=int(threads),
        soft_clip_supplementary=True,
        chunk_size=_BATCH_BASES,
    )
    aligner = BwaMem(fasta)
    with pysam.FastaFile(fasta) as reference:
        contigs = zip(reference.references, reference.lengths, strict=True)
        header = pysam.AlignmentHeader.from_dict(
            {
                "SQ": [{"SN": name, "LN": length} for name, length in contigs],
                "RG": [dict(field.split(":", 1) for field in group.split(r"\t")[1:])],
            }
        )
    name = dict(field.split(":", 1) for field in group.split(r"\t")[1:])["ID"]
    with pysam.AlignmentFile("-", "wbu", header=header) as output:
        for reads in _prefetched_batches(first, second):
            for alignments in aligner.align(reads, options):
                for alignment in alignments:
                    alignment.set_tag("RG", name)
                    output.write(alignment)


def _batches(first: str, second: str) -> Iterator[list[pysam.FastxRecord]]:
    batch: list[pysam.FastxRecord] = []
    bases = 0
    with pysam.FastxFile(first) as ones, pysam.FastxFile(second) as twos:
        for one, two in zip(ones, twos, strict=True):
            batch += (one, two)
            bases += len(one.sequence or "") + len(two.sequence or "")
            if bases >= _BATCH_BASES:
                yield batch
                batch, bases = [], 0
    if batch:
        yield batch


def _prefetched_batches(first: str, second: str) -> Iterator[list[pysam.FastxRecord]]:
    """Yield batches. Read the next batch while the caller aligns the previous one."""
    batches: queue.Queue[list[pysam.FastxRecord] | None] = queue.Queue(maxsize=1)

    def read() -> None:
        for batch in _batches(first, second):
            batches.put(batch)
        batches.put(None)

    threading.Thread(target=read, daemon=True).start()
    while (batch := batches.get()) is not None:
        yield batch


if __name__ == "__main__":
    main(*sys.argv[1:])
