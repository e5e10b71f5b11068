"""What a run may use and how many runs an owner may have at a time."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from wesemu.errors import RunLimitExceeded, TooManyRuns
from wesemu.runs.model import Owner
from wesemu.runs.ports import Execution
from wesemu.runs.store import RunStore
from wesemu.runs.workspace import Workspace, tree_size

_LOOK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class RunLimits:
    """0 stands for no limit.

    `minutes` are real ones, of one launch; `size` counts the bytes in the run directory, without
    hard links to files outside it; `runs_per_owner` counts queued and active runs.
    """

    minutes: float = 0
    size: int = 0
    runs_per_owner: int = 0
    look_seconds: float = _LOOK_SECONDS

    async def check_owner(self, store: RunStore, owner: Owner) -> None:
        """Before one more run is accepted. Raises TooManyRuns."""
        if not self.runs_per_owner:
            return
        counts = await store.state_counts(owner)
        active = sum(number for state, number in counts.items() if state.active)
        if active >= self.runs_per_owner:
            raise TooManyRuns(
                f"the owner {owner} has {active} runs that are queued or active, which is the "
                "most that limits.runs_per_owner allows; wait for one to end, or cancel one"
            )

    @asynccontextmanager
    async def enforced(self, workspace: Workspace, execution: Execution) -> AsyncIterator[None]:
        """Cancel the execution once it exceeds a limit. Raises RunLimitExceeded at the end."""
        exceeded: list[str] = []
        watching = asyncio.create_task(
            self._watch(workspace, execution, exceeded), name="run limits"
        )
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        if exceeded:
            raise RunLimitExceeded(exceeded[0])

    async def _watch(self, workspace: Workspace, execution: Execution, exceeded: list[str]) -> None:
        if not self.minutes and not self.size:
            return
        deadline = time.monotonic() + self.minutes * 60 if self.minutes else float("inf")
        while not exceeded:
            left = deadline - time.monotonic()
            if left <= 0:
                exceeded.append(
                    f"the run took longer than {self.minutes:g} minutes (limits.run_minutes)"
                )
            elif self.size and await asyncio.to_thread(tree_size, workspace.root) > self.size:
                exceeded.append(f"the run wrote more than {self.size} bytes (limits.bytes)")
            else:
                await asyncio.sleep(min(left, self.look_seconds) if self.size else left)
        await execution.cancel()
