"""`python -m wesemu.engines.wdl.runner RUN_DIRECTORY`: the process of a WDL run."""

from wesemu.engines.hosted.runner import main
from wesemu.engines.wdl.work import run_workflow

if __name__ == "__main__":
    main(run_workflow)
