"""WDL by miniwdl.

engine                   the server's side
runner, work             a run: the document, its inputs, its outputs
backend                  tasks as local processes, or in miniwdl's own containers
failures                 what miniwdl's errors tell the caller
"""

from wesemu.engines.wdl.engine import WdlEngine, probe

__all__ = ["WdlEngine", "probe"]
