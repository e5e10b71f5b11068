"""Contract tests: what hooks and executor plugin assume about Snakemake."""

import inspect
import logging
import subprocess
import sys
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest

from wesemu.engines.snakemake import hooks
from wesemu.engines.snakemake.hooks import INSTALLED, is_tested


@pytest.fixture(autouse=True)
def imported() -> None:
    import_module("snakemake.api")  # its parts cannot be imported alone, in any order


def test_installed_version_is_in_the_tested_range() -> None:
    assert is_tested(INSTALLED)


@pytest.mark.parametrize(
    ("release", "tested"),
    [("9.27.0", True), ("9.27.1", True), ("9.26.3", False), ("9.28.0", False), ("10.0", False)],
)
def test_tested_range(release: str, tested: bool) -> None:
    assert is_tested(release) is tested


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_shell_starts_commands_by_sp_popen() -> None:
    shell = import_module("snakemake.script").shell
    names = hooks.module_globals(shell)
    assert names["sp"] is subprocess or isinstance(names["sp"], hooks.ModuleProxy)
    source = inspect.getsource(shell.__new__)
    assert "sp.Popen(" in source
    assert "proc.wait()" in source


def test_executor_runs_each_job_in_a_thread_by_cached_or_run() -> None:
    local = import_module("snakemake.executors.local")
    assert parameters(local.Executor.cached_or_run)[:3] == ["self", "job", "run_func"]
    assert parameters(local.Executor.spawn_job) == ["self", "job"]
    assert parameters(local.Executor.format_job_exec) == ["self", "job"]
    source = inspect.getsource(local.Executor)
    assert "self.pool.submit(self.cached_or_run, job, self.spawn_job, job)" in source
    assert issubclass(local.SpawnedJobError, Exception)


def test_executor_runs_jobs_of_a_pipe_or_service_by_run_group_job() -> None:
    local = import_module("snakemake.executors.local")
    assert parameters(local.Executor.run_group_job) == ["self", "job"]
    assert "self.pool.submit(self.run_group_job, job)" in inspect.getsource(local.Executor)
    assert parameters(local.Executor.run_single_job) == ["self", "job"]
    assert parameters(local.shell.terminate) == ["jobid"]


def test_users_of_services_wait_for_files_by_wait_for_files() -> None:
    jobs, files = import_module("snakemake.jobs"), import_module("snakemake.io")
    assert {"files", "consider_local"} <= set(parameters(files.wait_for_files))
    source = inspect.getsource(jobs.Job.prepare)
    assert "await wait_for_files(" in source
    assert "f for f in self.input if self.is_pipe_or_service_input(f)" in source


def test_times_of_outputs_are_checked_by_check_output_mtime() -> None:
    dag, files = import_module("snakemake.dag").DAG, import_module("snakemake.io")
    assert parameters(dag.check_output_mtime) == ["self", "job", "expanded_output"]
    source = inspect.getsource(dag.check_and_touch_output)
    assert "await self.check_output_mtime(job, expanded_output)" in source
    assert parameters(files._IOFile.touch) == ["self", "times"]


def test_scheduler_constructs_the_executor_of_a_plugin_and_notifies_it() -> None:
    scheduler = import_module("snakemake.scheduling.job_scheduler").JobScheduler
    source = inspect.getsource(scheduler.__init__)
    assert "signal.signal(signal.SIGTERM, self.exit_gracefully)" in source
    assert "executor_plugin.executor(" in source
    assert "self.get_executor(job).handle_job_success(job)" in inspect.getsource(
        scheduler._finish_jobs
    )
    failing = inspect.getsource(scheduler._handle_error)
    notified = failing.index("self.get_executor(job).handle_job_error(job)")
    assert notified < failing.index("if job.restart_times > job.attempt - 1:")
    assert 'self._user_kill = "graceful"' in inspect.getsource(scheduler.exit_gracefully)
    workflow = import_module("snakemake.workflow")
    assert "self.scheduler = JobScheduler(" in inspect.getsource(workflow.Workflow.execute)


def test_dag_and_jobs_have_what_facts_are_made_of() -> None:
    jobs, dag = import_module("snakemake.jobs"), import_module("snakemake.dag")
    for name in ("jobid", "shellcmd", "is_norun", "is_shell", "threads", "is_group"):
        assert hasattr(jobs.Job, name), name
    assert "self.wildcards_dict = " in inspect.getsource(jobs.Job.__init__)
    for name in ("needrun_jobs", "jobs"):
        assert hasattr(dag.DAG, name), name


def test_jobs_and_groups_have_what_leases_are_made_of() -> None:
    jobs, workflow = import_module("snakemake.jobs"), import_module("snakemake.workflow")
    for kind in (jobs.Job, jobs.GroupJob):
        assert isinstance(inspect.getattr_static(kind, "resources"), property)
    source = inspect.getsource(workflow.Workflow.is_local)
    for name in ("rule.group is None", "self._localrules", "rule.norun", "rule.is_template_engine"):
        assert name in source


def test_interface_has_what_a_run_is_made_of() -> None:
    api, settings = import_module("snakemake.api"), import_module("snakemake.settings.types")
    assert {"executor", "execution_settings", "scheduling_settings", "scheduler_settings"} <= set(
        parameters(api.DAGApi.execute_workflow)
    )
    assert settings.SchedulingSettings(scheduler="greedy").max_jobs_per_timespan is None
    assert hasattr(api.WorkflowApi, "_workflow")
    assert "_workflow_store" in inspect.getsource(api.WorkflowApi)


@pytest.mark.parametrize("exported", ["", "export A='x && y' B='' && "])
def test_inner_command_is_taken_apart(exported: str) -> None:
    command = f"cd '/a b' && {exported}/usr/bin/python3 -m snakemake --snakefile S "
    command += "--target-jobs 'a:x=1'"
    assert hooks.inner_arguments(command) == (
        "/a b",
        ["--snakefile", "S", "--target-jobs", "a:x=1"],
    )


@pytest.mark.parametrize(
    "command",
    [
        "cd /a && module load x && python3 -m snakemake --cores 1",
        "python3 -m snakemake",
        "cd /a && python3 -c snakemake",
    ],
)
def test_inner_commands_of_another_shape_are_left_alone(command: str) -> None:
    assert hooks.inner_arguments(command) is None


def test_logged_errors_reach_the_watcher() -> None:
    heard = list[str]()
    handler = hooks.ErrorHandler(SimpleNamespace(logged_error=heard.append))  # type: ignore[arg-type]
    for message, members in {
        "plain": {},
        "started": {"event": "job_started"},
        "oh": {"event": "error"},
    }.items():
        record = logging.LogRecord("x", logging.INFO, "x", 1, message, None, None)
        vars(record).update(members)
        handler.handle(record)
    assert heard == ["oh"]


def test_yaml_is_read_by_yte_through_a_loader_of_yaml() -> None:
    yte = import_module("yte")
    assert "yaml.load(file_or_str, Loader=yaml.FullLoader)" in inspect.getsource(yte.process_yaml)


YAML_PROBE = """
import io, yaml, yte
from wesemu.engines import forkserver
documents = [
    "a: {b: [1, 2.5, yes, null, '7'], c: 2026-11-25}\\nd: >\\n  x\\n  y\\n",
    "header: |\\n  \\tcount\\tname\\n", "a:\\t4\\n", "a: 1\\t\\n", "[a:]", "a: [1", "a: b: c",
]
def read(document, kind):
    try:
        return yte.process_yaml(kind(document), require_use_yte=True)
    except yaml.YAMLError as error:
        return str(error)
cases = [(document, kind) for document in documents for kind in (str, io.StringIO)]
slow = [read(*case) for case in cases]
forkserver.load("snakemake")
assert yte.yaml.load is forkserver.load_yaml
assert [read(*case) for case in cases] == slow
assert slow[0]["a"]["b"] == [1, 2.5, True, None, "7"]
assert "line 1" in slow[-1]
"""


def test_warm_process_reads_the_same_yaml() -> None:
    subprocess.run([sys.executable, "-c", YAML_PROBE], check=True)


PARAMETERS_PROBE = """
import sys
from types import SimpleNamespace
from wesemu.engines import forkserver
forkserver.load("snakemake")
from snakemake.persistence import PersistenceBase
persistence = SimpleNamespace(_serialize_param_builtin=1, _serialize_param_pandas=2)
assert "pandas" not in sys.modules
assert PersistenceBase._serialize_param.fget(persistence) == 1
import pandas
assert PersistenceBase._serialize_param.fget(persistence) == 2
"""


def test_parameters_are_recorded_by_one_of_two_methods() -> None:
    persistence = import_module("snakemake.persistence").PersistenceBase
    for name in ("_serialize_param_builtin", "_serialize_param_pandas"):
        assert list(inspect.signature(getattr(persistence, name)).parameters) == ["self", "value"]
    assert "self._serialize_param(value)" in inspect.getsource(persistence._params.__wrapped__)


def test_warm_process_imports_pandas_for_workflows_with_pandas_only() -> None:
    pytest.importorskip("pandas", reason="needs the extra workflows")
    subprocess.run([sys.executable, "-c", PARAMETERS_PROBE], check=True)
