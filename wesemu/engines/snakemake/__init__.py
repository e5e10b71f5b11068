"""Snakemake as an engine; docs/run-directory.md describes what its runs leave on disk.

engine                       the part in the server, asyncio
worker                       mode "warm": runs in a process that has imported Snakemake
cli_worker                   mode "cli": runs Snakemake's command line; also for executor plugins
executor, executor_plugin    inside a warm run: controls its jobs; notified by the plugin
hooks                        what a plugin cannot do; only hooks uses Snakemake's internals
backends                     run the commands of tasks: on this machine or on Slurm
"""

from wesemu.engines.snakemake.engine import SnakemakeEngine

__all__ = ["SnakemakeEngine"]
