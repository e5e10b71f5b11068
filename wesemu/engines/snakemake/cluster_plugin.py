"""Snakemake's own executor plugin for Slurm, by its command line."""

import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from wesemu.engines.slurm.cluster import Cluster

_MODULE = "snakemake_executor_plugin_slurm"
_LONGEST_PREFIX = 50
_LATENCY_SECONDS = 30
_STATUS_SECONDS = 10
"""Short tasks have ended by then, each being a cold start of Snakemake; the plugin then waits ten
seconds more between any two checks."""

_READ_SIZE = 1 << 16
_RULE_ERROR = "\nRuleException:"
_EXIT_STATUS = re.compile(r"returned non-zero exit status (\d+)|died with <Signals\.\w+: (\d+)>")


def plugin_found() -> bool:
    """Without importing it. Blocks on the disk."""
    return find_spec(_MODULE) is not None


def plugin_words(cluster: Cluster, run_id: str, jobs: int) -> list[str]:
    """Options of Snakemake for `jobs` jobs at a time; default resources are `plugin_resources`."""
    prefix = "".join(sign if sign.isalnum() else "-" for sign in run_id)[:_LONGEST_PREFIX]
    words = [
        *("--executor", "slurm", "--jobs", str(jobs)),
        *("--slurm-jobname-prefix", prefix),
        *("--slurm-init-seconds-before-status-checks", str(_STATUS_SECONDS)),
        *("--seconds-between-status-checks", str(_STATUS_SECONDS)),
        *("--latency-wait", str(_LATENCY_SECONDS)),
    ]
    words += [] if cluster.accounting else ["--slurm-status-command", "squeue"]
    words += ["--max-threads", str(cluster.task_cores)] if cluster.task_cores else []
    return words if cluster.account else [*words, "--slurm-no-account"]


def plugin_resources(cluster: Cluster) -> list[str]:
    """Default resources that send a rule where the administrator wants it, as expressions."""
    named = {"slurm_partition": cluster.partition, "slurm_account": cluster.account}
    named["slurm_extra"] = " ".join(cluster.options)
    return [f"{name}={value!r}" for name, value in named.items() if value]


def exit_status(text: str) -> int | None:
    """Of the command that Snakemake complains about; 128 + n for signal n."""
    if (found := _EXIT_STATUS.search(text)) is None:
        return None
    return int(found[1]) if found[1] else 128 + int(found[2])


def job_log(logs: Iterable[str], root: Path) -> str | None:
    """Of a failed job's logs the one that the plugin has added, below `root`."""
    for log in map(Path, logs):
        if "slurm_logs" in log.parts and log.is_relative_to(root) and log.is_file():
            return str(log.relative_to(root))
    return None


def read_job_log(path: Path) -> tuple[int | None, str]:
    """The exit status of a job's command and the last line before Snakemake's complaint of it."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _READ_SIZE))
        text = file.read().decode(errors="replace")
    words, found, _ = text.partition(_RULE_ERROR)
    lines = words.splitlines() if found else []
    return exit_status(text), lines[-1].strip() if lines else ""
