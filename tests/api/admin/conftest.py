"""Helpers for the control API's tests."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

Client = TestClient[web.Request, web.Application]
Control = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
def control(client: Client) -> Control:
    """Calls `/_wesemu/<path>`: a GET, or a POST where there is a body; the answer's JSON."""

    async def control(
        path: str, body: Any = None, *, method: str = "", status: int = 200
    ) -> dict[str, Any]:
        method = method or ("GET" if body is None else "POST")
        response = await client.request(method, f"/_wesemu/{path}", json=body)
        assert response.status == status, await response.text()
        return dict(await response.json())

    return control
