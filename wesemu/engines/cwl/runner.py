"""`python -m wesemu.engines.cwl.runner RUN_DIRECTORY`: the process of a CWL run."""

from wesemu.engines.cwl.work import run_workflow
from wesemu.engines.hosted.runner import main

if __name__ == "__main__":
    main(run_workflow)
