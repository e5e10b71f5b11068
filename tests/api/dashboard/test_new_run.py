"""The forms that start runs."""

import json
import re
from typing import Any

import pytest
from aiohttp import FormData
from api.dashboard.conftest import LOCAL, Client, Read

from wesemu.runs.model import Run
from wesemu.runs.service import RunService
from wesemu.settings import LimitSettings, Settings

READS = {"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}
MAPPING = READS | {"reference": "oss://genes/reference/tiny", "bam": "oss://genes/out/a.bam"}


async def only_run(runs: RunService) -> Run:
    (run,) = (await runs.page(LOCAL, size=10)).runs
    return run


def own(name: str = "Snakefile", content: bytes = b"rule all:\n", **fields: str) -> FormData:
    """The form as a browser sends it: all fields, the empty ones too."""
    form = FormData(quote_fields=False)
    form.add_field("workflow_attachment", content, filename=name)
    defaults = {
        "workflow_url": "",
        "workflow_type": "SMK",
        "workflow_params": json.dumps({"script": []}),
        "workflow_engine_parameters": "{}",
        "tags": "{}",
    }
    for field, value in (defaults | fields).items():
        form.add_field(field, value)
    return form


async def test_the_form_suggests_reads_and_has_all_parameters(read: Read) -> None:
    page = json.loads(await read("/ui/new.json", pipeline="wgs"))
    assert page["reads"] == list(READS.values())
    fields = {field["name"]: field for field in page["fields"]}
    assert fields["service"]["choices"] == ["silver", "gold", "platinum"]
    assert fields["markdup"]["choices"] == ["true", "false"]
    assert "freebayes" in fields["caller"]["choices"]
    assert fields["quality_offset"]["choices"] == ["33", "64"]
    assert await read("/ui/new", pipeline="wgs")
    await read("/ui/new", 400, pipeline="nothing")


async def test_a_pipeline_is_started_with_the_given_parameters_only(
    client: Client, runs: RunService
) -> None:
    values = MAPPING | {"service": "gold", "markdup": "false", "optical_distance": "100"}
    async with client.post("/ui/new", params={"pipeline": "mapping"}, data=values) as response:
        assert response.status == 200
        run = await only_run(runs)
        assert response.url.path == f"/ui/runs/{run.id}"
    assert run.workflow == "mapping"
    assert run.service_level.name == "GOLD"
    assert {name: run.request.params.get(name) for name in ("markdup", "optical_distance")} == {
        "markdup": False,
        "optical_distance": 100,
    }
    assert "mapper" not in run.request.params


async def test_a_dry_run_shows_the_plan_and_keeps_the_form(
    client: Client, runs: RunService
) -> None:
    values = MAPPING | {"dry_run": "true"}
    async with client.post("/ui/new", params={"pipeline": "mapping"}, data=values) as response:
        text = await response.text()
        assert response.status == 200, text
    assert "oss://genes/out/a.bam" in text
    assert "about 1 h 0 min" in text
    assert re.search(r"about [\d.]+ CNY", text)
    assert f'value="{MAPPING["first"]}"' in text
    assert not (await runs.page(LOCAL, size=10)).runs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": "oss://genes/nothing.fq.gz"}, "nothing.fq.gz"),
        ({"optical_distance": "many"}, "optical_distance"),
        ({"reference": "unknown"}, "unknown"),
    ],
)
async def test_an_error_is_shown_beside_the_filled_form(
    client: Client, change: dict[str, str], message: str
) -> None:
    values = MAPPING | change
    async with client.post("/ui/new", params={"pipeline": "mapping"}, data=values) as response:
        text = await response.text()
        assert response.status == 400
    notice = text.split('role="alert">')[1].split("</p>")[0]
    assert message in notice
    assert f'value="{values["bam"]}"' in text


@pytest.mark.parametrize("number", ["--5", "9" * 5000, "\N{FULLWIDTH DIGIT FIVE}", "-1"])
async def test_what_is_no_number_is_refused(client: Client, number: str) -> None:
    values = MAPPING | {"optical_distance": number}
    async with client.post("/ui/new", params={"pipeline": "mapping"}, data=values) as response:
        text = await response.text()
        assert response.status == 400
    assert "optical_distance" in text.split('role="alert">')[1].split("</p>")[0]


async def test_an_own_workflow_is_uploaded_and_started(client: Client, runs: RunService) -> None:
    form = own(tags='{"batch": "7"}')
    async with client.post("/ui/new?pipeline=", data=form) as response:
        assert response.status == 200, await response.text()
        run = await only_run(runs)
        assert response.url.path == f"/ui/runs/{run.id}"
    assert run.request.workflow_url == "Snakefile"
    assert run.request.tags["batch"] == "7"


async def test_an_own_workflow_is_planned(
    client: Client, runs: RunService, settings: Settings
) -> None:
    script: list[dict[str, Any]] = [{"task": "one"}, {"task": "two"}]
    form = own(workflow_params=json.dumps({"script": script}))
    async with client.post("/ui/new?pipeline=&dry_run=true", data=form) as response:
        text = await response.text()
        assert response.status == 200, text
    assert "2 tasks: one, two." in text
    assert not (await runs.page(LOCAL, size=10)).runs
    assert not list((settings.data / "runs").iterdir())


async def test_a_bad_own_workflow_says_why(client: Client, settings: Settings) -> None:
    for form, message in (
        (own(workflow_params="{"), "workflow_params"),
        (own(workflow_url="other"), "other"),
        (own(name="../Snakefile"), "../Snakefile"),
    ):
        async with client.post("/ui/new?pipeline=", data=form) as response:
            text = await response.text()
            assert response.status == 400, text
        assert message in text.split('role="alert">')[1].split("</p>")[0]
    assert not list((settings.data / "runs").iterdir())


class TestWithALimitOfRuns:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"limits": LimitSettings(runs_per_owner=1)})

    async def test_one_run_too_many_is_refused_beside_the_filled_form(
        self, client: Client, runs: RunService
    ) -> None:
        values = MAPPING | {"sample": "wait-a"}
        for status in (200, 429):
            async with client.post("/ui/new?pipeline=mapping", data=values) as response:
                text = await response.text()
                assert response.status == status
        assert "limits.runs_per_owner" in text.split('role="alert">')[1].split("</p>")[0]
        assert f'value="{values["bam"]}"' in text
        run = await only_run(runs)
        await runs.cancel(LOCAL, run.id)
        async for _ in runs.follow(LOCAL, run.id):
            pass
        for status in (200, 429):
            async with client.post(f"/ui/runs/{run.id}/rerun", data={}) as response:
                text = await response.text()
                assert response.status == status
        assert "limits.runs_per_owner" in text.split('role="alert">')[1].split("</p>")[0]
