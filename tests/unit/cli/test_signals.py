"""Signals and the end of the reader of standard output.

An ignored SIGINT, as `command &` in a script leaves it, is not inherited.
"""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wesemu.cli import take_interrupts
from wesemu.cli.output import check_output


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def status_of_an_interrupted_child() -> int:
    return subprocess.run(["sh", "-c", "kill -INT $$"], check=False).returncode


def test_children_of_the_command_line_can_be_interrupted() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert status_of_an_interrupted_child() == 0
    take_interrupts()
    assert status_of_an_interrupted_child() == -signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_handler_stays() -> None:
    met: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: met.append(number))
    take_interrupts()
    signal.raise_signal(signal.SIGINT)
    assert met == [signal.SIGINT]


def test_the_entry_point_does_so_before_it_imports_the_rest() -> None:
    """The status of `wesemu demo` after Ctrl-C, from the very start on."""
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "from wesemu.cli import main; sys.argv = ['wesemu', '--version']\n"
        "try: main()\n"
        "except SystemExit: print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "True"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_what_the_tests_start_has_the_default_handlers(number: signal.Signals) -> None:
    """Also where pytest itself was started with them ignored: see conftest."""
    done = subprocess.run(["sh", "-c", f"kill -{int(number)} $$"], check=False)
    assert done.returncode == -number


def test_an_interrupt_during_the_imports_has_no_traceback() -> None:
    program = (
        "import builtins, signal, sys\n"
        "from wesemu.cli import main\n"
        "ordinary = builtins.__import__\n"
        "def interrupted(name, *arguments):\n"
        "    if name == 'wesemu.cli.app': signal.raise_signal(signal.SIGINT)\n"
        "    return ordinary(name, *arguments)\n"
        "builtins.__import__ = interrupted\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (130, b"")


def test_a_verb_that_is_ended_leaves_no_partial_file(tmp_path: Path) -> None:
    program = (
        "import shutil, signal, sys\n"
        "from wesemu.cli import main\n"
        "def ended(source, target):\n"
        "    target.touch()\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "shutil.copyfile = ended\n"
        "main()"
    )
    (tmp_path / "reads.fq").touch()
    command = [sys.executable, "-c", program, "bucket", "cp", "reads.fq", "oss://genes/reads.fq"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, b"", b"")
    folder = tmp_path / ".wesemu" / "buckets" / "genes"
    assert (folder.is_dir(), [*folder.iterdir()]) == (True, [])


def test_a_verb_that_waits_notices_that_its_reader_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        check_output()
        os.close(reader)
        with pytest.raises(BrokenPipeError):
            check_output()
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    check_output()
