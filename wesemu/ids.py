"""Where run ids and short handles come from; seedable, so that a test knows them beforehand."""

import random
import uuid

HANDLE_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Letters of Kubernetes' generateName: no vowels, nothing that reads as something else."""

HANDLE_LENGTH = 5


class IdSource:
    """Draws ids from one generator: the operating system's, or a seeded one."""

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.SystemRandom() if seed is None else random.Random(seed)

    def run_id(self) -> str:
        """A random UUID (RFC 9562, version 4), so that a short prefix is soon unique."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def handle(self) -> str:
        """Five letters that a person can type; unique on a server once the store has taken it."""
        return "".join(self._random.choices(HANDLE_ALPHABET, k=HANDLE_LENGTH))
