"""The real SDKs with a server without access keys: it accepts every signature."""

import asyncio
import json

import pytest
from conformance.ags.test_new_sdk import MAPPING, call_api, generic, typed
from conformance.ags.test_old_sdk import BODY, OldSdk

from wesemu.runs.model import LOCAL_OWNER
from wesemu.runs.service import RunService
from wesemu.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return Settings.model_validate(settings.model_dump() | {"auth": {}})


async def test_all_three_work_side_by_side(endpoint: str, runs: RunService) -> None:
    from alibabacloud_cs20151215.models import CancelWorkflowRequest, StartWorkflowRequest

    old, new, any_release = OldSdk(endpoint, "x"), typed(endpoint, "y"), generic(endpoint, "z")
    names = [
        json.loads(await old.send("POST", "/gs/workflow", BODY))["JobName"],
        (
            await asyncio.to_thread(new.start_workflow, StartWorkflowRequest(**MAPPING))
        ).body.job_name,
    ]
    order = MAPPING | {"mapping_bam_out_filename": "other.bam"}
    started = await call_api(any_release, "POST", "/gs/workflow", order)
    names.append(started["body"]["JobName"])
    listed = await asyncio.to_thread(new.describe_workflows)
    assert [job.job_name for job in listed.body.jobs] == names[::-1]
    for name in names:
        run = await runs.by_handle(LOCAL_OWNER, name.rpartition("-")[2])
        async for changed in runs.follow(LOCAL_OWNER, run.id):
            assert not changed.failure
    told = await call_api(any_release, "GET", f"/gs/workflow/{names[0]}")
    assert told["body"]["status"] == "Succeeded"
    await asyncio.to_thread(new.cancel_workflow, names[1], CancelWorkflowRequest(action="cancel"))
    await asyncio.to_thread(new.remove_workflow, names[1])
    assert await old.send("DELETE", f"/gs/workflow/{names[0]}") == b""
    left = json.loads(await old.send("GET", "/gs/workflows"))["jobs"]
    assert [job["job_name"] for job in left] == names[2:]
    gone = await old.fails("GET", f"/gs/workflow/{names[0]}")
    assert gone.get_error_code() == "ErrorWorkflowNotFound"
