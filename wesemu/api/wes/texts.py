"""What is told of runs that have ended, put into words once: it never changes again."""

import json
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

from wesemu.api.wes.render import run_log, summary
from wesemu.api.wes.versions import Version
from wesemu.runs.listing import Head
from wesemu.runs.model import Owner, Run
from wesemu.runs.service import RunService

_SUMMARY_LETTERS = 16 << 20
_LOG_LETTERS = 32 << 20
_LARGEST_SHARE = 256

Key = TypeVar("Key")


class TextCache(Generic[Key]):
    """The texts that were asked for last, as many as have no more than `letters` together."""

    def __init__(self, letters: int) -> None:
        self._letters = letters
        self._held = 0
        self._texts: OrderedDict[Key, str] = OrderedDict()

    def get(self, key: Key) -> str | None:
        text = self._texts.get(key)
        if text is not None:
            self._texts.move_to_end(key)
        return text

    def put(self, key: Key, text: str) -> None:
        """A text that would push out too many others is not kept."""
        if key in self._texts or len(text) > self._letters // _LARGEST_SHARE:
            return
        self._texts[key] = text
        self._held += len(text)
        while self._held > self._letters:
            _, dropped = self._texts.popitem(last=False)
            self._held -= len(dropped)


class RunTexts:
    """JSON of RunSummary and RunLog. Of an ended run it is the same for all versions, but for the
    addresses in it."""

    def __init__(self, runs: RunService) -> None:
        self._runs = runs
        self._summaries: TextCache[Head] = TextCache(_SUMMARY_LETTERS)
        self._logs: TextCache[Head] = TextCache(_LOG_LETTERS)
        self._url = f"url-{secrets.token_hex(16)}"
        """Stands for a run's own URL in what is kept; nobody outside can write it."""

    async def summaries(self, version: Version, owner: Owner, heads: Sequence[Head]) -> list[str]:
        """One for each of `heads`, but for runs that were removed meanwhile."""
        kept = {head: self._summaries.get(head) for head in heads}
        missing = [head.id for head, text in kept.items() if text is None]
        found = await self._runs.many(owner, missing) if missing else {}
        for head, text in kept.items():
            if text is None and (run := found.get(head.id)) is not None:
                kept[head] = self._summary(version, head, run)
        return [text for text in kept.values() if text is not None]

    async def log(self, version: Version, owner: Owner, run_id: str, url: str) -> str:
        """`url` is the run's own. Raises as RunService.get."""
        run = await self._runs.get(owner, run_id)
        head = Head(run.id, run.sequence, run.state)
        if (text := self._logs.get(head)) is None:
            tasks = await self._runs.tasks(run)
            text = json.dumps(run_log(version, run, tasks, self._url))
            if run.state.ended:
                self._logs.put(head, text)
        return text.replace(self._url, json.dumps(url)[1:-1])

    def _summary(self, version: Version, head: Head, run: Run) -> str:
        text = json.dumps(summary(version, run))
        if head.state is run.state and run.state.ended:
            self._summaries.put(head, text)
        return text
