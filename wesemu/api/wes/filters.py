"""What a query may say beyond WES: `state=RUNNING,QUEUED`, `tag=project:x`, flags."""

from collections.abc import Iterator, Mapping

from multidict import MultiMapping

from wesemu.api.wes.versions import Version
from wesemu.errors import InvalidRequest
from wesemu.runs.figures import NAMES
from wesemu.runs.listing import TAG_LIMIT, Selection
from wesemu.runs.model import RunState

_NEVER = frozenset({"UNKNOWN", "PAUSED", "PREEMPTED"})
"""States of WES that no run is ever in here."""

_TAGS = 8


def read_selection(version: Version, query: MultiMapping[str]) -> Selection | None:
    """What the caller wants to see; None where nothing can be that.

    `state` may be given several times, or hold several with commas: any of them will do. `tag`
    may be given several times: a run must have all of them. Raises InvalidRequest.
    """
    asked = _words(query.getall("state", []))
    states = tuple(dict.fromkeys(state for word in asked for state in _states(version, word)))
    if asked and not states:
        return None
    tags = dict.fromkeys(_tag(text) for text in query.getall("tag", []) if text)
    if len(tags) > _TAGS:
        raise InvalidRequest(f"tag is given more than {_TAGS} times", field="tag")
    return Selection(states=states, tags=tuple(tags))


def flag(query: Mapping[str, str], name: str) -> bool:
    """Raises InvalidRequest for anything but true and false."""
    text = query.get(name, "false")
    if text not in ("true", "false"):
        raise InvalidRequest(f"{name} is {text[:40]!r}; it is true or false", field=name)
    return text == "true"


def _words(texts: list[str]) -> list[str]:
    words = (word.strip().upper() for text in texts for word in text.split(","))
    return [word for word in words if word]


def _states(version: Version, word: str) -> Iterator[RunState]:
    """Under 0.3.0 a run that is being cancelled is shown as RUNNING, and found as such."""
    if word in _NEVER:
        return
    if word not in RunState.__members__ or (word == "CANCELING" and not version.canceling):
        known = ", ".join(state for state in RunState if version.canceling or state != "CANCELING")
        raise InvalidRequest(f"state is {word[:40]!r}; it is one of {known}", field="state")
    yield RunState(word)
    if word == "RUNNING" and not version.canceling:
        yield RunState.CANCELING


def _tag(text: str) -> tuple[str, str]:
    """Cut at the first colon."""
    name, colon, value = text.partition(":")
    if not colon or not name:
        raise InvalidRequest(f"tag is {text[:40]!r}; write key:value", field="tag")
    if len(name) + len(value) > TAG_LIMIT:
        raise InvalidRequest(
            f"tag has more than {TAG_LIMIT} letters; such tags are not listed", field="tag"
        )
    if name in NAMES:
        raise InvalidRequest(
            f"tag {name} is the server's own, worked out when it is shown; ask for one of yours",
            field="tag",
        )
    return name, value
