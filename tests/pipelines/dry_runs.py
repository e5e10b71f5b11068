"""Snakemake's dry runs, many in one process: each a fork of it, so that all are cold and quick."""

import json
import os
import sys
import traceback
from pathlib import Path

from snakemake import cli

for line in sys.stdin:
    words, output = json.loads(line)
    child = os.fork()
    if child == 0:
        with Path(output).open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        try:
            cli.main(words)
        except SystemExit as end:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 1)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    _, status = os.waitpid(child, 0)
    sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
    sys.stdout.flush()
