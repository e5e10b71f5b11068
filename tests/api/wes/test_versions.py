"""Differences between the versions of WES, and service-info."""

import pytest
from api.wes.fixtures import FACTS, Client, Ended, Serve, Submit, fetch

from wesemu.api.wes import responses
from wesemu.api.wes.models import PREFIX, VERSIONS, VersionName
from wesemu.runs.model import RunState

NAMES = list(VERSIONS)


def mount(version: VersionName) -> str:
    return f"/{version}{PREFIX}"


async def test_the_unversioned_path_answers_as_0_3_0(wes: Client) -> None:
    info = await fetch(wes, f"{PREFIX}/service-info")
    assert info["type"] == {"group": "org.ga4gh", "artifact": "wes", "version": "0.3.0"}
    assert info["workflow_engine_versions"] == {"snakemake": "9.27.1"}
    assert info["supported_wes_versions"] == NAMES
    assert info["supported_filesystem_protocols"] == ["oss"]
    assert info["supported_file_system_protocols"] == ["oss"]
    assert info["workflow_type_versions"] == {"SMK": {"workflow_type_version": ["9.27.1"]}}
    assert info["default_workflow_engine_parameters"] == [
        {"name": "cores", "type": "integer", "default_value": "2"}
    ]
    assert info["contact_info"] == info["contact_info_url"] == info["contactUrl"] == FACTS.contact
    assert info["organization"]["url"] == f"http://{wes.host}:{wes.port}/"
    assert info["system_state_counts"]["COMPLETE"] == 0


@pytest.mark.parametrize("version", NAMES)
async def test_the_unversioned_path_answers_by_the_setting(
    serve: Serve, version: VersionName
) -> None:
    wes = await serve(version=version)
    info = await fetch(wes, f"{PREFIX}/service-info")
    assert info == await fetch(wes, f"{mount(version)}/service-info")
    assert info["type"]["version"] == version


@pytest.mark.parametrize("version", NAMES)
async def test_every_version_is_mounted_and_keeps_its_prefix(
    wes: Client, submit: Submit, ended: Ended, version: VersionName
) -> None:
    run_id = await submit([{"task": "a"}])
    await ended(run_id)
    log = await fetch(wes, f"{mount(version)}/runs/{run_id}")
    own = f"http://{wes.host}:{wes.port}{mount(version)}/runs/{run_id}/"
    assert log["task_logs_url"].startswith(own)
    assert log["run_log"]["stderr"].startswith(own)
    assert log["task_logs"][0]["stdout"].startswith(own)


async def test_engine_versions_are_lists_from_1_1_0_on(wes: Client) -> None:
    for version in NAMES:
        info = await fetch(wes, f"{mount(version)}/service-info")
        expected = {"workflow_engine_version": ["9.27.1"]} if version == "1.1.0" else "9.27.1"
        assert info["workflow_engine_versions"]["snakemake"] == expected


@pytest.mark.parametrize("version", NAMES)
def test_0_3_0_has_no_word_for_canceling(version: VersionName) -> None:
    shown = responses.state(VERSIONS[version], RunState.CANCELING)
    assert shown == ("RUNNING" if version == "0.3.0" else "CANCELING")
    counts = {RunState.RUNNING: 2, RunState.CANCELING: 1}
    told = responses.service_info(VERSIONS[version], FACTS, counts, "")["system_state_counts"]
    assert told == ({"RUNNING": 3} if version == "0.3.0" else {"RUNNING": 2, "CANCELING": 1})
