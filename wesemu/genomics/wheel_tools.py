"""Commands of wheels: samtools, bcftools, `bwa index` and `bwa-mem3 index`; starts of programs.

`python -P -m wesemu.genomics.wheel_tools samtools sort -u -` behaves like `samtools sort -u -`:
streams, exit status, signals. It calls the C libraries of pysam and pybwa directly, because
importing pysam takes longer than most of these commands need for a small genome.

`samtools fixmate - - --pipe sort -` behaves like `samtools fixmate - - | samtools sort -` with
`pipefail`. Each command has its own process, but Python starts once.

`wheel_command` and `program_command` start this file as a script, without Python's module `site`.
That saves a quarter of the CPU time, and half where installed packages run code at every start of
Python.
"""

# pathlib would take a third of the start-up time
# ruff: noqa: PTH100, PTH112, PTH113, PTH118, PTH120, PTH123

import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES

TYPE_CHECKING = False  # `typing` would take longer than all other imports
if TYPE_CHECKING:
    from collections.abc import Callable

VERIFIED_PYBWA = "1.5.2"
"""The version whose alignments equal bwa's; from 1.6.0 on, pairs lose their flags."""

_INDEXING_PYBWA = (VERIFIED_PYBWA, "2.3.2")
"""Versions whose index files equal bwa's."""

VERIFIED_BWA_MEM3 = "0.4.4"
"""The version whose alignments equal bwa's after `mapper_wheel.as_bwa`."""

_LIBRARIES = {
    "samtools": ("pysam", "libcsamtools"),
    "bcftools": ("pysam", "libcbcftools"),
    "bwa": ("pybwa", "libbwaindex"),
    "bwa mem": ("pybwa", "libbwamem"),
    "bwa-mem3": ("bwa_mem3", "_bwa_mem3"),
}
_VERIFIED = {
    "bwa": _INDEXING_PYBWA,
    "bwa mem": (VERIFIED_PYBWA,),
    "bwa-mem3": (VERIFIED_BWA_MEM3,),
}
_PACKAGES = "--packages"
PIPE = "--pipe"
"""Separates the commands of a pipe."""
_COMMANDS = ("samtools", "bcftools", "bwa", "bwa-mem3")
_PROGRAMS = "wesemu.genomics."
_IMPORTED = ("isal", "pysam", "pybwa", "bwa_mem3")
"""The packages outside wesemu that programs import, where they are installed."""
_INTEL = ("x86_64", "AMD64")
_SIGINT, _SIGPIPE = 2, 13  # on Linux and macOS


def library_path(tool: str) -> str | None:
    """Return the shared library that contains `tool`, or None if its wheel is not installed."""
    package, library = _LIBRARIES[tool]
    for folder in sys.path:
        for suffix in EXTENSION_SUFFIXES:
            path = os.path.join(folder, package, library + suffix)
            if os.path.isfile(path):
                return path
    return None


def wheel_version(tool: str) -> str | None:
    """Return the version of the tool in its wheel, or None if there is no usable one."""
    library = library_path(tool)
    if library is None:
        return None
    folder = os.path.dirname(library)
    if tool in _VERIFIED:
        for version in _VERIFIED[tool]:
            if os.path.isdir(f"{folder}-{version}.dist-info"):
                # pybwa does not say which bwa it contains: one after 0.7.17 that writes no MQ tag
                return version if tool == "bwa-mem3" else f"0.7 (pybwa {version})"
        return None
    with open(os.path.join(folder, "version.py"), encoding="utf-8") as lines:
        for line in lines:
            if line.startswith(f"__{tool}_version__"):
                return line.split('"')[1]
    return None


def wheel_command(tool: str) -> tuple[str, ...]:
    """Return the command that starts `tool` with this Python."""
    path = library_path(tool) if tool in _LIBRARIES else None
    if path is None or tool == "bwa-mem3":  # its `index` imports other modules
        return (sys.executable, "-P", "-m", "wesemu.genomics.wheel_tools", tool)
    # -I: no environment variables and no user folder; -S: no `site`, so no installed packages
    packages = os.path.dirname(os.path.dirname(path))
    return (sys.executable, "-IS", os.path.abspath(__file__), _PACKAGES, packages, tool)


def program_command(name: str) -> tuple[str, ...]:
    """Return the command that calls `main()` of wesemu.genomics.NAME with this Python.

    It behaves like `python -P -m wesemu.genomics.NAME`. The program must not leave output in the
    buffer of sys.stdout, which is not flushed.
    """
    here = os.path.abspath(__file__)
    folders = [os.path.dirname(os.path.dirname(os.path.dirname(here)))]
    for package in _IMPORTED:
        found = (each for each in sys.path if os.path.isdir(os.path.join(each, package)))
        folders += [os.path.abspath(each) for each in found][:1]
    options = [word for each in dict.fromkeys(folders) for word in (_PACKAGES, each)]
    return (sys.executable, "-PS", here, *options, _PROGRAMS + name)


def bwa_mem3_fault() -> str | None:
    """Return why the wheel of bwa-mem3 cannot map on this machine, or None if it can."""
    if wheel_version("bwa-mem3") is None:
        return f"the wheel bwa-mem3 {VERIFIED_BWA_MEM3} is not installed for this Python"
    if os.uname().machine in _INTEL and not has_avx2():
        return "bwa-mem3 needs a CPU with AVX2, which this one does not have"
    return None


def has_avx2(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Return whether the CPU has AVX2. Without it, importing the wheel ends with SIGILL."""
    try:
        with open(cpuinfo, encoding="utf-8", errors="replace") as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx2" in flags.split()


def _run_program(argv: list[str]) -> int:
    module = __import__(argv[0], fromlist=["main"])
    sys.argv = argv
    status: int = module.main()
    sys.stderr.flush()
    return status


def _run_in_library(tool: str, path: str, argv: list[str]) -> int:
    """Run a tool of pysam, or `bwa`, by its C functions."""
    import ctypes  # here, because programs do not need it

    own, library = ctypes.CDLL(None), ctypes.CDLL(path)
    # As in a native program, the signals end the process, also inside C code. This is signal(2),
    # because importing the module `signal` takes a third of the start-up time.
    for number in (_SIGINT, _SIGPIPE):
        own.signal(number, None)

    def run(words: list[str]) -> int:
        encoded = [os.fsencode(word) for word in words]
        if tool == "bwa":
            arguments = (ctypes.c_char_p * len(encoded))(*encoded[1:], None)
            return int(library.bwa_index(len(encoded) - 1, arguments))
        getattr(library, f"{tool}_set_stdout")(1)
        getattr(library, f"{tool}_set_stderr")(2)
        arguments = (ctypes.c_char_p * (len(encoded) + 1))(*encoded, None)
        status: int = getattr(library, f"{tool}_dispatch")(len(encoded), arguments)
        if own.fflush(None) != 0:
            status = status or _fail(f"{tool}: the output cannot be written", 1)
        getattr(library, f"{tool}_close_stdout")()
        return status

    commands = [[tool]]
    for word in argv[1:]:
        if word == PIPE:
            commands.append([tool])
        else:
            commands[-1].append(word)
    return _run_pipe(commands, run)


def _run_pipe(commands: list[list[str]], run: "Callable[[list[str]], int]") -> int:
    """Run the last command here and each other one in a child, which writes to the next one.

    Return the status of the last command that fails, as bash does with `pipefail`.
    """
    children = []
    for command in commands[:-1]:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            os.dup2(write, 1)
            os.close(write)
            os._exit(run(command) & 0xFF)
        children.append(child)
        os.close(write)
        os.dup2(read, 0)
        os.close(read)
    status = run(commands[-1])
    if children:
        os.close(0)  # a child that still writes ends with SIGPIPE
    for child in reversed(children):
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        status = status or (code if code >= 0 else 128 - code)
    return status


def _bwa_usage(argv: list[str]) -> str | None:
    """Return what to print in place of `bwa index`, or None for that command."""
    if argv[1:2] == ["index"]:
        return None
    text = "usage: bwa index FASTA" if len(argv) > 1 else f"Version: {wheel_version('bwa')}"
    return f"bwa of the pybwa wheel\n{text}"


def _run_bwa_mem3(argv: list[str]) -> int:
    if argv[1:2] != ["index"] or len(argv) != 3:
        return _fail("bwa-mem3 of its wheel\nusage: bwa-mem3 index FASTA", 1)
    import signal

    from wesemu.errors import WesemuError
    from wesemu.genomics.fm_index import write_index

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        write_index(argv[2])
    except (WesemuError, OSError) as error:
        return _fail(f"bwa-mem3 index: {error}", 1)
    return 0


def _fail(message: str, status: int) -> int:
    sys.stderr.write(message + "\n")
    return status


def main(argv: list[str]) -> int:
    """Run a tool, `["samtools", "view", …]`, or a program, and return its exit status.

    `--packages FOLDER` may precede it: a folder of packages, if `site` did not run.
    """
    while argv[:1] == [_PACKAGES]:
        sys.path.append(argv[1])
        argv = argv[2:]
    if argv and argv[0].startswith(_PROGRAMS):
        return _run_program(argv)
    if not argv or argv[0] not in _COMMANDS:
        return _fail(f"usage: python -m wesemu.genomics.wheel_tools {'|'.join(_COMMANDS)} …", 2)
    tool = argv[0]
    path = library_path(tool)
    if path is None:
        return _fail(f"{tool}: its wheel is not installed for this Python", 127)
    if tool == "bwa-mem3":
        return _run_bwa_mem3(argv)
    if tool == "bwa" and (usage := _bwa_usage(argv)) is not None:
        return _fail(usage, 1)
    return _run_in_library(tool, path, argv)


if __name__ == "__main__":
    # skips Python's teardown, which has nothing left to do
    os._exit(main(sys.argv[1:]) & 0xFF)
