"""Which of an owner's runs a list shows, and how the index finds one page of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from wesemu.runs.model import Owner, Run, RunId, RunState

TAG_LIMIT = 256
"""A tag can be asked for if its key and value have no more letters than this together."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What runs must have to be listed: one of `workflows` (names of bundled pipelines), one of
    `states`, and every one of `tags` (key, value). Empty: no matter."""

    workflows: tuple[str, ...] = ()
    states: tuple[RunState, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()


EVERYTHING = Selection()


@dataclass(frozen=True, slots=True)
class Page:
    """Runs, newest first; `before` is the sequence to go on from, None at the end."""

    runs: tuple[Run, ...]
    before: int | None


@dataclass(frozen=True, slots=True)
class Head:
    """What tells one run in one state from any other."""

    id: RunId
    sequence: int
    state: RunState


@dataclass(frozen=True, slots=True)
class HeadPage:
    """As `Page`, with no more of each run than its head."""

    heads: tuple[Head, ...]
    before: int | None


@dataclass(frozen=True, slots=True)
class _Range:
    """A range of an index that holds an owner's runs by sequence, and what else must hold."""

    table: str
    clauses: Sequence[str] = ()
    values: Sequence[str] = ()


def page_query(
    owner: Owner, selection: Selection, before: int | None, limit: int, columns: str = "*"
) -> tuple[str, list[object]]:
    """The query and its values for `limit` runs with sequences below `before`, newest first.

    It reads `limit` rows of one index range for each state or workflow, however many runs there
    are. Only where it has several conditions on tags, or tags or states beside workflows, are
    rows looked at that do not fit.
    """
    queries: list[str] = []
    bound: list[object] = []
    for found in _ranges(selection):
        clauses = " AND ".join(["owner = ?", *found.clauses, "sequence < ?"])
        queries.append(
            f"SELECT sequence FROM (SELECT sequence FROM {found.table} AS found "  # noqa: S608
            f"WHERE {clauses} ORDER BY sequence DESC LIMIT ?)"
        )
        bound += [owner, *found.values, before if before is not None else 1 << 62, limit]
    return (
        f"SELECT {columns} FROM runs WHERE sequence IN ({' UNION ALL '.join(queries)}) "  # noqa: S608
        "ORDER BY sequence DESC LIMIT ?",
        [*bound, limit],
    )


def _ranges(selection: Selection) -> list[_Range]:
    """No run is in two of them."""
    states = [state.value for state in dict.fromkeys(selection.states)]
    workflows = list(dict.fromkeys(selection.workflows))
    if selection.tags:
        return [_tagged(selection, state) for state in states or RunState]
    if states:
        clause = f"workflow IN ({', '.join('?' * len(workflows))})"
        also = [clause] if workflows else []
        return [_Range("runs", ["state = ?", *also], [state, *workflows]) for state in states]
    if workflows:
        return [_Range("runs", ["workflow = ?"], [workflow]) for workflow in workflows]
    return [_Range("runs")]


def _tagged(selection: Selection, state: str) -> _Range:
    (name, tag), *others = selection.tags
    clauses = ["name = ? AND value = ? AND state = ?"]
    values = [name, tag, state]
    for other in others:
        clauses.append(
            "EXISTS (SELECT 1 FROM run_tags AS other WHERE other.sequence = found.sequence "
            "AND other.name = ? AND other.value = ?)"
        )
        values.extend(other)
    if selection.workflows:
        marks = ", ".join("?" * len(selection.workflows))
        clauses.append(
            "EXISTS (SELECT 1 FROM runs WHERE runs.sequence = found.sequence "  # noqa: S608
            f"AND runs.workflow IN ({marks}))"
        )
        values.extend(selection.workflows)
    return _Range("run_tags", clauses, values)
