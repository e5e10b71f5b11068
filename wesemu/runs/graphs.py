"""What a run would do, task by task, as a dry run tells it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from wesemu.runs.model import JsonObject

LARGEST = 1000
"""Of a graph with more tasks the first so many are told."""


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """`inputs` and `outputs` are paths below `work/`, or names that the caller gave; `after` are
    the ids of tasks whose outputs it needs."""

    id: str
    name: str
    wildcards: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Graph:
    """At most `LARGEST` of the `total` tasks, none before what it needs; `counts` has all of them
    by name. `complete` is false where more may come up while it runs."""

    tasks: tuple[PlannedTask, ...]
    counts: Mapping[str, int]
    complete: bool = True

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def renamed(self, names: Mapping[str, str]) -> "Graph":
        """With files that lie at a path of `names`, or beside it, as the caller calls them."""

        def rename(files: Sequence[str]) -> tuple[str, ...]:
            return tuple(_renamed(file, names) for file in files)

        tasks = (
            replace(task, inputs=rename(task.inputs), outputs=rename(task.outputs))
            for task in self.tasks
        )
        return replace(self, tasks=tuple(tasks))


def graph_of(tasks: Sequence[PlannedTask], *, complete: bool = True) -> Graph:
    counts: dict[str, int] = {}
    for task in tasks:
        counts[task.name] = counts.get(task.name, 0) + 1
    return Graph(tuple(tasks[:LARGEST]), counts, complete)


def graph_to_json(graph: Graph) -> JsonObject:
    return asdict(graph)


def graph_from_json(values: Mapping[str, Any]) -> Graph:
    tasks = tuple(
        PlannedTask(**task | {name: tuple(task[name]) for name in ("inputs", "outputs", "after")})
        for task in values["tasks"]
    )
    return Graph(tasks, values["counts"], values["complete"])


def _renamed(file: str, names: Mapping[str, str]) -> str:
    """`genome.fa.fai` lies beside `genome.fa`."""
    for path, name in names.items():
        if file == path or file.startswith((f"{path}.", f"{path}/")):
            return name + file.removeprefix(path)
    return file
