"""Commands of wheels: samtools, bcftools, `bwa index` and `bwa-mem3 index`.

`python -P -m wesemu.genomics.wheel_tools samtools sort -u -` behaves like `samtools sort -u -`:
streams, exit status, signals. It calls the C libraries of pysam and pybwa directly, because
importing pysam takes longer than most of these commands need for a small genome.

`wheel_command` starts this file as a script, without Python's module `site`. That saves a
quarter of the CPU time, and half where installed packages run code at every start of Python.
"""

# pathlib would take a third of the start-up time
# ruff: noqa: PTH100, PTH112, PTH113, PTH118, PTH120, PTH123

import ctypes
import os
import signal
import sys
from importlib.machinery import EXTENSION_SUFFIXES

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
_COMMANDS = ("samtools", "bcftools", "bwa", "bwa-mem3")
_INTEL = ("x86_64", "AMD64")


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


def _run_pysam(tool: str, library: ctypes.CDLL, argv: list[bytes]) -> int:
    getattr(library, f"{tool}_set_stdout")(1)
    getattr(library, f"{tool}_set_stderr")(2)
    arguments = (ctypes.c_char_p * (len(argv) + 1))(*argv, None)
    status: int = getattr(library, f"{tool}_dispatch")(len(argv), arguments)
    if ctypes.CDLL(None).fflush(None) != 0:
        status = status or _fail(f"{tool}: the output cannot be written", 1)
    getattr(library, f"{tool}_close_stdout")()
    return status


def _run_bwa(library: ctypes.CDLL, argv: list[bytes]) -> int:
    if argv[1:2] != [b"index"]:
        text = "usage: bwa index FASTA"
        if len(argv) == 1:
            text = f"Version: {wheel_version('bwa')}"
        return _fail(f"bwa of the pybwa wheel\n{text}", 1)
    arguments = (ctypes.c_char_p * len(argv))(*argv[1:], None)
    return int(library.bwa_index(len(argv) - 1, arguments))


def _run_bwa_mem3(argv: list[str]) -> int:
    if argv[1:2] != ["index"] or len(argv) != 3:
        return _fail("bwa-mem3 of its wheel\nusage: bwa-mem3 index FASTA", 1)
    from wesemu.errors import WesemuError
    from wesemu.genomics.fm_index import write_index

    try:
        write_index(argv[2])
    except (WesemuError, OSError) as error:
        return _fail(f"bwa-mem3 index: {error}", 1)
    return 0


def _fail(message: str, status: int) -> int:
    sys.stderr.write(message + "\n")
    return status


def main(argv: list[str]) -> int:
    """Run a tool, `["samtools", "view", …]`, and return its exit status.

    `--packages FOLDER` may precede the tool: the folder of its wheel, if `site` did not run.
    """
    if argv[:1] == [_PACKAGES]:
        sys.path.append(argv[1])
        argv = argv[2:]
    if not argv or argv[0] not in _COMMANDS:
        return _fail(f"usage: python -m wesemu.genomics.wheel_tools {'|'.join(_COMMANDS)} …", 2)
    tool = argv[0]
    path = library_path(tool)
    if path is None:
        return _fail(f"{tool}: its wheel is not installed for this Python", 127)
    # as in a native program: the signals end the process, also inside C code
    for number in (signal.SIGPIPE, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    if tool == "bwa-mem3":
        return _run_bwa_mem3(argv)
    library = ctypes.CDLL(path)
    encoded = [os.fsencode(word) for word in argv]
    return _run_bwa(library, encoded) if tool == "bwa" else _run_pysam(tool, library, encoded)


if __name__ == "__main__":
    # skips Python's teardown, which has nothing left to do
    os._exit(main(sys.argv[1:]) & 0xFF)
