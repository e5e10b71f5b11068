"""Where run ids and short handles come from; seedable, so that a test knows them beforehand."""

import random
import uuid

HANDLE_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Letters of Kubernetes' generateName: no vowels, nothing that reads as something else."""

HANDLE_LENGTH = 5


class IdSource:
    """Draws ids from the operating system's generator, or from a seeded one.

    Requests' ids come from the operating system always: how many requests a client makes does
    not change the ids of its runs.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._chance = random.SystemRandom()
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
        """A random UUID in capitals, as Alibaba's gateway writes them."""
        return str(uuid.UUID(int=self._chance.getrandbits(128), version=4)).upper()
