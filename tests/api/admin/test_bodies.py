"""Bodies of the control API: unknown members, wrong types and other formats are refused."""

import json
import math
import re
from itertools import product
from pathlib import Path

import pytest
from api.admin.conftest import Client, Control

from wesemu.settings import Settings

FOREIGN = re.compile(r"pydantic|Input should|Expecting|Extra inputs|Errno|Value error")

BODIES = {
    "PUT /_wesemu/clock": {"speed": 1},
    "PATCH /_wesemu/clock": {"speed": 1},
    "POST /_wesemu/clock/advance": {"minutes": 1},
    "POST /_wesemu/faults": {"operation": "ListRuns", "status": 500},
    "POST /_wesemu/reset": {"buckets": False},
    "POST /_wesemu/prune": {"older_than_days": 30},
    "POST /_wesemu/seed": {"seed": 1},
    "PUT /_wesemu/seed": {"seed": 1},
}
"""Every operation that takes a JSON object and nothing else, and an object that it takes."""

FILES = {"POST /_wesemu/snapshots", "PUT /_wesemu/snapshots", "POST /_wesemu/references"}
"""Operations that send or receive files."""


def test_no_operation_is_forgotten(client: Client) -> None:
    served = {
        f"{route.method} {route.resource.canonical}"
        for route in client.app.router.routes()
        if route.resource is not None and route.resource.canonical.startswith("/_wesemu/")
    }
    changing = {call for call in served if not call.startswith(("GET", "HEAD", "DELETE"))}
    assert changing == {*BODIES, *FILES}


WRONG = [
    "[]",
    "[{}]",
    "null",
    "true",
    "1",
    '"text"',
    "{",
    "{}{}",
    "{} trailing",
    '{"unknown": 1}',
    "NaN",
    "[" * 60_000,
    '{"a":' * 12_000,
    "\xff",
    "speed=1",
    "1" * 5000,
    " " * 70_000,
]


async def test_what_is_no_object_of_known_members_is_refused(client: Client) -> None:
    for call, text in product(BODIES, WRONG):
        method, path = call.split()
        response = await client.request(method, path, data=text.encode("latin-1"))
        told = await response.json()
        assert response.status == 400, (call, text[:20])
        assert not FOREIGN.search(told["error"]), told


async def test_members_have_their_own_types(client: Client) -> None:
    """Each member of each body with a value of each other type."""
    values = [None, True, False, 0, 1, 1.5, "1", "true", "", [], [1], {}, math.nan, math.inf]
    taken = {
        "speed": [0, 1, 1.5],
        "minutes": [1, 1.5],
        "operation": [],
        "status": [None],
        "buckets": [True, False],
        "seed": [None, 0, 1],
        "older_than_days": [0, 1, 1.5],
    }
    for call, body in BODIES.items():
        method, path = call.split()
        for name, value in product(body, values):
            if any(value is good for good in taken[name]):
                continue
            sent = json.dumps({**body, name: value})
            response = await client.request(method, path, data=sent)
            told = await response.json()
            if call.endswith("faults") and value is None:
                continue  # the same as leaving it out
            assert response.status == 400, sent
            assert not FOREIGN.search(told["error"]), told


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"Content-Type": "multipart/form-data; boundary=x"}, ""),
        ({"Content-Type": "application/xml"}, ""),
        ({"Content-Encoding": "compress"}, ""),
        ({"Content-Type": "application/json"}, "?buckets=true"),
        ({"Content-Type": "application/json"}, "?x"),
    ],
)
async def test_other_kinds_of_bodies_and_queries_are_refused(
    client: Client, headers: dict[str, str], query: str
) -> None:
    for call, sent in BODIES.items():
        method, path = call.split()
        body = json.dumps(sent).encode()
        response = await client.request(method, path + query, data=body, headers=headers)
        assert response.status == 400
        assert (await response.json())["error"]


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "application/x-www-form-urlencoded", "text/plain"]
)
async def test_what_clients_send_by_default_is_taken(client: Client, kind: str) -> None:
    for call, sent in BODIES.items():
        method, path = call.split()
        body = json.dumps(sent).encode()
        response = await client.request(method, path, data=body, headers={"Content-Type": kind})
        assert response.status == 200


async def test_a_member_that_comes_twice_is_refused(client: Client) -> None:
    body = b'{"buckets": false, "buckets": true}'
    response = await client.post("/_wesemu/reset", data=body)
    assert response.status == 400
    assert (await response.json())["error"] == "buckets: it is given twice; name it once"


async def test_nothing_but_true_removes_buckets(control: Control, settings: Settings) -> None:
    for buckets in ("yes", "true", 1, "no", None, []):
        told = await control("reset", {"buckets": buckets}, status=400)
        assert told["field"] == "buckets"
        assert told["error"].startswith("buckets: must be true or false")
    assert (Path(settings.data) / "buckets/genes").is_dir()


async def test_taking_faults_back_takes_no_body(client: Client, control: Control) -> None:
    await control("faults", {"operation": "ListRuns", "status": 500})
    response = await client.delete("/_wesemu/faults", json={"operation": "ListRuns"})
    assert response.status == 400
    assert len((await control("faults"))["faults"]) == 1
