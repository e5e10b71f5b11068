"""The reads checked and counted beside a program that reads the files itself."""

import threading
from collections.abc import Callable, Sequence

from wesemu.errors import InputError
from wesemu.genomics.align import Tally
from wesemu.genomics.alignment import Lane
from wesemu.genomics.fastq import LONGEST_READ, PairedReader


class Counting(threading.Thread):
    """Reads every lane to its end. `spoiled` is called at the first fault of the reads, from this
    thread; `join` raises nothing: ask `error`, and `tally` once it has ended without one."""

    def __init__(
        self, lanes: Sequence[Lane], quality_offset: int | None, spoiled: Callable[[], None]
    ) -> None:
        super().__init__(name="count the reads", daemon=True)
        self.error: Exception | None = None
        self.tally = Tally()
        self._lanes = lanes
        self._offset = quality_offset
        self._spoiled = spoiled
        self.start()

    def run(self) -> None:
        last = b""
        try:
            for lane in self._lanes:
                with PairedReader(
                    lane.first,
                    lane.second,
                    longest=LONGEST_READ,
                    quality_offset=self._offset,
                    before=last,
                ) as reader:
                    for _ in reader.texts():
                        pass
                    self.tally.add(lane, reader)
                    last = reader.last
        except Exception as error:
            self.error = error
            self._spoiled()

    def finish(self) -> Tally:
        """Wait for the end; the counts. Raises InputError, and what else went wrong."""
        self.join()
        if self.error is not None:
            raise self.error
        return self.tally


def check_lanes(lanes: Sequence[Lane], quality_offset: int | None) -> None:
    """Raise `InputError` for reads that are right, but not for a program that opens the files
    itself."""
    for lane in lanes:
        if lane.second is None:
            raise InputError(
                f"{lane.first} is interleaved, which this mapper does not read. Split it into "
                "two files, or map it on the CPU with bwa.",
                file=lane.first,
            )
        if quality_offset == 64:
            raise InputError(
                f"{lane.first} has qualities in Phred+{quality_offset}, which this mapper does not "
                "read. Convert them to Phred+33, or map on the CPU with bwa.",
                file=lane.first,
            )
