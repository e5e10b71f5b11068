"""Engines that are Python libraries: a run is a detached process that forks one worker, and the
worker calls the library. Nothing here knows a workflow language.

engine, order                    the server's side, asyncio
containers                       which container tool of this machine answers
runner, worker                   the run's process and its worker
tasks                            inside the worker: tasks with their files, groups and ends
results                          what a run leaves in work/out/
"""

from wesemu.engines.hosted.containers import ContainerTool, find_container_tool
from wesemu.engines.hosted.engine import HostedEngine, Probe, probe_package

__all__ = ["ContainerTool", "HostedEngine", "Probe", "find_container_tool", "probe_package"]
