"""docs/control.md has every endpoint and every member, docs/sla.md every setting and figure."""

import re
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from wesemu.api.admin import models
from wesemu.api.ags.responses import Description
from wesemu.api.fault_injection import BUCKET_OPERATIONS, CONTROL, OPERATIONS
from wesemu.runs.run_figures import FIGURE_TAGS
from wesemu.settings import ClockSettings, SlaSettings

DOCS = Path(__file__).parents[2] / "docs"
CONTROL_PAGE = (DOCS / "control.md").read_text(encoding="utf-8")
SLA_PAGE = (DOCS / "sla.md").read_text(encoding="utf-8")


async def test_every_endpoint_has_its_heading_and_every_heading_its_endpoint(
    client: TestClient[web.Request, web.Application],
) -> None:
    served = {
        f"{route.method} {route.resource.canonical}"
        for route in client.app.router.routes()
        if route.resource is not None
        and route.resource.canonical.startswith(CONTROL)
        and route.method != "HEAD"
    }
    assert len(served) > 10
    assert set(re.findall(r"^## ([A-Z]+ /\S+)$", CONTROL_PAGE, re.MULTILINE)) == served


@pytest.mark.parametrize(
    "request_body",
    [
        models.Speed,
        models.Advance,
        models.Reset,
        models.FaultBody,
        models.NextRun,
        models.ReferenceFromBucket,
        models.ReferenceReport,
    ],
)
def test_every_member_of_a_request_is_explained(request_body: type) -> None:
    names = list(request_body.model_fields)  # type: ignore[attr-defined]
    assert [name for name in names if name not in CONTROL_PAGE] == []


@pytest.mark.parametrize("operation", [*OPERATIONS, *BUCKET_OPERATIONS])
def test_every_operation_is_named(operation: str) -> None:
    assert f"`{operation}`" in CONTROL_PAGE


def test_every_setting_of_the_service_level_is_on_its_page() -> None:
    names = [f"clock.{name}" for name in ClockSettings.model_fields]
    names += [f"sla.{name}" for name in SlaSettings.model_fields]
    assert [name for name in names if f"| `{name}` |" not in SLA_PAGE] == []


def test_every_figure_of_the_service_level_is_on_its_page() -> None:
    figures = [name for name in FIGURE_TAGS if name.startswith(("wesemu.sla.", "wesemu.real."))]
    figures += [name for name in Description.model_fields if name.startswith("sla_")]
    figures.remove("wesemu.sla.level")
    assert [name for name in figures if f"`{name}`" not in SLA_PAGE] == []
