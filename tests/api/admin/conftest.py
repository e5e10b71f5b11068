"""Fixtures for tests of the control API."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

Client = TestClient[web.Request, web.Application]
Control = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
def control(client: Client) -> Control:
    """Return a function that calls `/_wesemu/<path>` and returns the JSON of the response.

    It sends a GET, or a POST with a body.
    """

    async def control(
        path: str, body: Any = None, *, method: str = "", status: int = 200
    ) -> dict[str, Any]:
        method = method or ("GET" if body is None else "POST")
        response = await client.request(method, f"/_wesemu/{path}", json=body)
        assert response.status == status, await response.text()
        return dict(await response.json())

    return control
