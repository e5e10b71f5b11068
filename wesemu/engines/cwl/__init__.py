"""CWL by cwltool.

engine                   the server's side
runner, work             a run: cwltool's command line as a function, with fixed options
hooks                    all that touches cwltool's internals
outputs                  the output object, as files in work/out/
failures                 what cwltool says about a failed run

`engines.hosted` is what this engine shares with WDL's.
"""

from wesemu.engines.cwl.engine import CwlEngine, probe

__all__ = ["CwlEngine", "probe"]
