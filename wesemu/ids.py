"""Where run ids and short handles come from; seedable, so that a test knows them beforehand."""

import random
import uuid

HANDLE_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Letters of Kubernetes' generateName: no vowels, nothing that reads as something else."""

HANDLE_LENGTH = 5

_FREE_BITS = ~(0xF000 << 64 | 0xC000 << 48)
_VERSION_4 = 0x4000 << 64 | 0x8000 << 48
"""RFC 9562, section 5.4: what a random UUID leaves to chance, and what it does not."""


class IdSource:
    """Draws ids from the operating system's generator, or from a seeded one.

    Requests' ids never come from the seeded one: how many requests a client makes does not
    change the ids of its runs.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._chance = random.SystemRandom()
        self._requests = random.Random()  # ten times faster than the operating system's
        self._random: random.Random = self._chance
        self.seed(seed)

    def seed(self, seed: int | None) -> None:
        """Draw the same ids after every call with the same number; None: unpredictable ones."""
        self._random = self._chance if seed is None else random.Random(seed)

    def run_id(self) -> str:
        """A random UUID (RFC 9562, version 4), so that a short prefix is soon unique."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def handle(self) -> str:
        """Five letters that a person can type; unique on a server once the store has taken it."""
        return "".join(self._random.choices(HANDLE_ALPHABET, k=HANDLE_LENGTH))

    def request_id(self) -> str:
        """As a random UUID in capitals, like those of Alibaba's gateway. Who has seen many can
        guess the next one: it opens nothing."""
        digits = f"{self._requests.getrandbits(128) & _FREE_BITS | _VERSION_4:032X}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def upload_id(self) -> str:
        """32 letters that nobody guesses: who has it may write to the upload."""
        return f"{self._chance.getrandbits(128):032X}"
