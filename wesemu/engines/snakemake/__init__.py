"""Snakemake as an engine; docs/run-directory.md describes what its runs leave on disk.

engine, forkserver_client    the server's side, asyncio
forkserver, worker           the mode "warm": runs are forked where Snakemake is imported already
cli_worker                   the mode "cli": a run starts Snakemake's command line; Slurm by plugin
executor, hooks              inside a warm run: hooks is all that touches Snakemake's internals
backends                     where the commands of a warm run's tasks run: here, or on Slurm
"""

from wesemu.engines.options import SnakemakeOptions, check_parameters
from wesemu.engines.snakemake.engine import SnakemakeEngine

__all__ = ["SnakemakeEngine", "SnakemakeOptions", "check_parameters"]
