"""Lists of runs by state, tag and workflow: exact, paged by key, at constant cost."""

import sqlite3
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scripted import START

from wesemu.runs.database import MIGRATIONS, Database
from wesemu.runs.model import LOCAL_OWNER, Owner, Resources, Run, RunId, RunRequest, RunState
from wesemu.runs.sla import ServiceLevel
from wesemu.runs.store import RunStore, Selection, page_query

OTHER = Owner("other")
STATES = [RunState.QUEUED, RunState.CANCELED, RunState.SYSTEM_ERROR]


def a_run(number: int, tags: Mapping[str, str], owner: Owner = LOCAL_OWNER) -> Run:
    return Run(
        id=RunId(f"id-{number}"),
        sequence=0,
        handle=f"h{number}",
        owner=owner,
        state=RunState.QUEUED,
        workflow="mapping" if number % 2 else "",
        service_level=ServiceLevel.SILVER,
        request=RunRequest("mapping"),
        resources=Resources(),
        created=START,
        tags=tags,
    )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[RunStore]:
    store = await RunStore.open(tmp_path / "index.db")
    yield store
    await store.close()


async def every_page(store: RunStore, selection: Selection, size: int = 2) -> list[str]:
    seen: list[str] = []
    before: int | None = None
    while True:
        page = await store.page(LOCAL_OWNER, size=size, before=before, selection=selection)
        seen += [run.id for run in page.runs]
        if (before := page.before) is None:
            return seen


KEYS = st.sampled_from(["a", 'b"', "c\\d", "é:1", "x.y"])
TAGS = st.dictionaries(KEYS, st.sampled_from(["1", "2", "\n'"]), max_size=3)
RUN = st.tuples(TAGS, st.sampled_from(STATES), st.booleans())
SELECTION = st.builds(
    Selection,
    workflows=st.sampled_from([(), ("mapping",), ("mapping", "wgs", "mapping")]),
    states=st.lists(st.sampled_from(STATES), max_size=3).map(tuple),
    tags=st.lists(st.tuples(KEYS, st.sampled_from(["1", "2", "\n'"])), max_size=2).map(tuple),
)


@settings(max_examples=60, deadline=None)
@given(runs=st.lists(RUN, max_size=12), selection=SELECTION, size=st.integers(1, 5))
async def test_a_selection_lists_what_fits_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory,
    runs: list[tuple[dict[str, str], RunState, bool]],
    selection: Selection,
    size: int,
) -> None:
    store = await RunStore.open(tmp_path_factory.mktemp("index") / "index.db")
    expected: list[str] = []
    for number, (tags, state, own) in enumerate(runs):
        run = await store.insert(a_run(number, tags, LOCAL_OWNER if own else OTHER))
        if state is not RunState.QUEUED:
            run = await store.move(run.id, state)
        if (
            own
            and (not selection.states or run.state in selection.states)
            and (not selection.workflows or run.workflow in selection.workflows)
            and all(tags.get(name) == value for name, value in selection.tags)
        ):
            expected.insert(0, run.id)
    assert await every_page(store, selection, size) == expected
    await store.close()


SELECTIONS = [
    Selection(),
    Selection(states=(RunState.QUEUED, RunState.CANCELED)),
    Selection(tags=(("a", "1"),)),
    Selection(tags=(("a", "1"), ("b", "1"))),
]


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 4),
    selection=st.sampled_from(SELECTIONS),
    steps=st.lists(st.one_of(st.just("insert"), st.integers(0, 30)), max_size=25),
)
async def test_paging_over_inserts_and_deletes_loses_and_repeats_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    size: int,
    selection: Selection,
    steps: list[str | int],
) -> None:
    """A number deletes the run of that number, before the next page is asked for."""
    store = await RunStore.open(tmp_path_factory.mktemp("index") / "index.db")
    tags = {"a": "1", "b": "1"}
    for number in range(12):
        await store.insert(a_run(number, tags))
    lasting = {f"id-{number}" for number in range(12)}
    seen: list[str] = []
    before: int | None = None
    while True:
        page = await store.page(LOCAL_OWNER, size=size, before=before, selection=selection)
        seen += [run.id for run in page.runs]
        before = page.before
        if before is None:
            break
        step = steps.pop() if steps else None
        if step == "insert":
            await store.insert(a_run(100 + len(steps), tags))
        elif isinstance(step, int):
            await store.delete(RunId(f"id-{step}"))
            lasting.discard(f"id-{step}")
    await store.close()
    assert len(seen) == len(set(seen))
    assert lasting <= set(seen)


async def test_tags_follow_the_run(store: RunStore) -> None:
    run = await store.insert(a_run(1, {"a": "1", "long": "x" * 300}))
    tagged = Selection(states=(RunState.CANCELED,), tags=(("b", "2"),))
    assert await every_page(store, tagged) == []
    await store.move(run.id, RunState.CANCELED, tags='{"b":"2"}')
    assert await every_page(store, tagged) == [run.id]
    assert await every_page(store, Selection(tags=(("a", "1"),))) == []
    await store.delete(run.id)
    assert await every_page(store, tagged) == []


async def test_an_index_of_before_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    store = await RunStore.open(path)
    run = replace(a_run(1, {"a": "1"}), workflow="mapping")
    await store.insert(run)
    await store.close()
    with sqlite3.connect(path) as old:
        found = "SELECT type, name FROM sqlite_master WHERE type <> 'index' OR sql IS NOT NULL"
        made = set(old.execute(found))
        first = sqlite3.connect(":memory:")
        first.executescript(MIGRATIONS[0])
        for kind, name in made - set(first.execute(found)):
            old.execute(f"DROP {kind} IF EXISTS {name}")
        for table in ("runs", "tasks"):
            columns = f"SELECT name FROM pragma_table_info('{table}')"
            for (name,) in set(old.execute(columns)) - set(first.execute(columns)):
                old.execute(f"ALTER TABLE {table} DROP COLUMN {name}")
        first.close()
        old.execute("PRAGMA user_version = 1")
    old.close()
    store = await RunStore.open(path)
    assert await every_page(store, Selection(tags=(("a", "1"),))) == [run.id]
    assert await every_page(store, Selection(states=(RunState.QUEUED,))) == [run.id]
    await store.close()


@pytest.mark.parametrize(
    "selection",
    [*SELECTIONS, Selection(workflows=("mapping", "wgs")), Selection(states=tuple(RunState))],
)
async def test_no_list_scans_or_sorts_more_than_it_shows(
    tmp_path: Path, selection: Selection
) -> None:
    database = await Database.open(tmp_path / "index.db")
    query, values = page_query(LOCAL_OWNER, selection, None, 100)
    steps = [
        str(row["detail"]) for row in await database.rows(f"EXPLAIN QUERY PLAN {query}", values)
    ]
    await database.close()
    assert [s for s in steps if s.startswith("SCAN") and "(subquery" not in s] == []
    ranges = [step for step in steps if "found USING" in step]
    assert ranges
    assert all("owner=?" in step and "sequence<?" in step for step in ranges)
