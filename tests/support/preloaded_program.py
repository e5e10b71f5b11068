"""A Python command line program that starts in milliseconds: each call is a fork of a process
that has imported it.

`python preloaded_program.py MODULE FUNCTION [MODULE …]` imports the modules; those that are not
installed are left out. For each line of its standard input,
a JSON object with `argv`, `cwd`, `env` and `output`, it forks. The child calls FUNCTION as
`python -m` would, with stdout and stderr in files of the folder `output`. The answer is a line with
the exit status, negative for a signal.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

TIMEOUT_SECONDS = 120


class PreloadedProgram:
    """Context manager: the process that has imported the program.

    `also` names modules that the program would import after its start.
    """

    def __init__(self, module: str, function: str, *also: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, module, function, *also],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def run(
        self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run the program to its end, like `subprocess.run` with captured output.

        A program that takes longer than TIMEOUT_SECONDS is ended by SIGALRM.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with tempfile.TemporaryDirectory() as output:
            call = {"argv": argv, "cwd": str(cwd), "env": dict(env), "output": output}
            process.stdin.write(f"{json.dumps(call)}\n")
            process.stdin.flush()
            status = int(process.stdout.readline())
            texts = [Path(output, name).read_text() for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess(argv, status, *texts)


def _serve(module: str, function: str, *also: str) -> None:
    """Answer calls until the standard input ends."""
    program = importlib.import_module(module)
    for name in also:
        with suppress(ModuleNotFoundError):
            importlib.import_module(name)
    for line in sys.stdin:
        call = json.loads(line)
        child = os.fork()
        if not child:
            _become(call, str(program.__file__))
            sys.exit(getattr(program, function)())
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _become(call: Mapping[str, object], file: str) -> None:
    """Give this process the arguments, folder, environment and files of a call."""
    signal.alarm(TIMEOUT_SECONDS)
    os.chdir(str(call["cwd"]))
    for number, name in enumerate((os.devnull, "stdout", "stderr")):
        path = name if number == 0 else f"{call['output']}/{name}"
        opened = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    environment = call["env"]
    assert isinstance(environment, dict)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = str(call["cwd"])  # as for `python -m`
    argv = call["argv"]
    assert isinstance(argv, list)
    sys.argv = [file, *argv]


if __name__ == "__main__":
    _serve(*sys.argv[1:])
