"""Snakemake as an engine; docs/run-directory.md tells what its runs leave on disk.

engine, fork_client              the server's side, asyncio
forkserver, fork_worker          the mode "warm": a run is forked, with Snakemake imported
runner, command_worker           the mode "cli": a run starts Snakemake's command line
workflow, watch, hooks           inside a warm run: hooks is all that touches internals
places, slurm_tasks              where the commands of a warm run's tasks run
cluster_plugin                   Snakemake's own way to Slurm, in the mode "cli"
order, parameters, failures      what a run is told to do, and how it explains its failure
"""

from wesemu.engines.snakemake.engine import SnakemakeEngine
from wesemu.engines.snakemake.parameters import Options, check_parameters

__all__ = ["Options", "SnakemakeEngine", "check_parameters"]
