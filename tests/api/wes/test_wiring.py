"""The whole server, built by create_app, offers WES beside its other APIs."""

from api.wes.fixtures import Client, fetch

from wesemu.runs.model import LOCAL_OWNER, RunState
from wesemu.runs.service import RunService

READS = {"first": "oss://genes/fastq/a_1.fq.gz", "second": "oss://genes/fastq/a_2.fq.gz"}
PARAMS = {"reads": [READS], "reference": "oss://genes/reference/tiny", "bam": "oss://genes/o/a.bam"}


async def test_a_run_on_the_whole_server(client: Client, runs: RunService) -> None:
    info = await fetch(client, "//ga4gh/wes/v1/service-info")
    assert info["workflow_type_versions"]["SMK"]["workflow_type_version"] == ["9.27.1"]
    body = {"workflow_url": "mapping", "workflow_params": PARAMS}
    async with client.post("/1.1.0/ga4gh/wes/v1/runs", json=body) as answer:
        assert answer.status == 200
        run_id = (await answer.json())["run_id"]
    async for run in runs.follow(LOCAL_OWNER, run_id):
        state = run.state
    assert state is RunState.COMPLETE
    log = await fetch(client, f"/ga4gh/wes/v1/runs/{run_id}")
    assert log["request"]["tags"]["wesemu.total_reads"] == "4000"
    assert log["outputs"]["bam"]["published"] == "oss://genes/o/a.bam"


async def test_errors_stay_in_their_dialect(client: Client) -> None:
    assert set(await fetch(client, "/ga4gh/wes/v1/nowhere", 404)) == {"msg", "status_code"}
    assert "status_code" not in await fetch(client, "/_wesemu/nowhere", 404)
