"""The engine parameter `cores`: how many cores a run may use."""

import pytest

from wesemu.engine_parameters import engines_own
from wesemu.errors import InvalidRequest
from wesemu.runs.model import Resources
from wesemu.workflows.placement import cores_of

NODE = Resources(cores=8, memory_mb=4096, gpus=2)


def test_a_run_may_use_all_cores() -> None:
    assert cores_of({}, NODE) == 8


def test_the_parameter_cores_limits_it() -> None:
    assert cores_of({"cores": "3"}, NODE) == 3


@pytest.mark.parametrize("asked", ["0", "9", "-1", "two", "٣"])
def test_what_the_node_cannot_give_is_refused(asked: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        cores_of({"cores": asked}, NODE)
    assert refused.value.field == "workflow_engine_parameters.cores"


def test_the_engine_does_not_get_it() -> None:
    assert engines_own({"cores": "3", "node": "cpu", "gpus": "1", "retries": "1"}) == {
        "retries": "1"
    }
