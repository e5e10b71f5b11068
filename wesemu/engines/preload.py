"""Imports and preparations of a forkserver before it forks, so runs need not repeat them.

Parts: `load` for each engine, `ParsedSnakefiles` for the bundled pipelines, `PreloadedModules` for
modules that may change on the disk.
"""

import contextlib
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import yaml


def load(engine: str) -> None:
    """Import an engine and fill the caches that all its runs share. Starts no threads.

    Raises RuntimeError for an engine that cannot run in a forked process.
    """
    match engine:
        case "snakemake":
            _load_snakemake()
        case "cwltool":
            _load_cwltool()
        case "miniwdl":
            _load_miniwdl()
        case _:
            raise RuntimeError(f"there is no engine {engine!r}")


def _import(names: Iterable[str]) -> None:
    for name in names:
        with contextlib.suppress(ImportError):  # the run then imports it itself
            import_module(name)


# Snakemake.

_SNAKEMAKE_MODULES = (
    "snakemake.api",
    "snakemake.cli",
    "wesemu.engines.snakemake.executor_plugin",
    "snakemake.scheduling.job_scheduler",
    "snakemake.script",
    "snakemake.storage",
    "smart_open",
    "yte",
    "dpath",
    "platformdirs",
    "packaging.version",
    "jsonschema",
    "getpass",
    "graphlib",
    "encodings.idna",
)


def _load_snakemake() -> None:
    """Also fill the plugin registries, and the processor name, which needs another program."""
    hooks: Any = import_module("wesemu.engines.snakemake.hooks")
    if not hooks.is_tested(hooks.INSTALLED):
        raise RuntimeError("this version of Snakemake has not been tested with the warm mode")
    import_module("wesemu.engines.snakemake.worker")
    _import(_SNAKEMAKE_MODULES)
    for kind in ("executor", "storage", "scheduler", "logger"):
        registry = import_module(f"snakemake_interface_{kind}_plugins.registry")
        vars(registry)[f"{kind.capitalize()}PluginRegistry"]()
    platform.processor()
    if hasattr(yaml, "CFullLoader"):
        # the Python parser takes longer than planning a small workflow
        vars(import_module("yte"))["yaml"] = hooks.ModuleProxy(yaml, load=load_yaml)
    base = vars(import_module("snakemake.persistence"))["PersistenceBase"]
    base._serialize_param = property(_serializer_of_params)  # noqa: SLF001


def _serializer_of_params(persistence: Any) -> Any:
    """Return the method with which Snakemake records a parameter of a job.

    Snakemake imports pandas for it if pandas is installed, which takes longer than a small
    workflow. Only a workflow that has imported pandas has such parameters.
    """
    if "pandas" in sys.modules:
        return persistence._serialize_param_pandas  # noqa: SLF001
    return persistence._serialize_param_builtin  # noqa: SLF001


def load_yaml(stream: Any, Loader: Any) -> Any:  # noqa: N803  # as yaml.load names it
    """Parse YAML with libyaml; give the same results and errors as PyYAML's Python parser.

    libyaml treats tabs differently and rejects some valid input, so those cases use the other
    parser.
    """
    text = stream if isinstance(stream, str) else stream.read()
    if "\t" not in text:
        with contextlib.suppress(yaml.YAMLError):
            return yaml.load(text, yaml.CFullLoader)  # noqa: S506  # same loader, in C
    if not isinstance(stream, str):
        stream.seek(0)
    return yaml.load(stream, Loader)  # noqa: S506  # the caller's choice


_ANY_PATH = "/path of the Snakefile"


class _Parsed(NamedTuple):
    code: str
    linemap: Mapping[int, int]
    rules: int


class ParsedSnakefiles:
    """Keeps the Python code into which Snakemake translates Snakefiles.

    After `install`, runs use this code for files with the same text. All rules must have names:
    Snakemake numbers unnamed rules, and the numbers depend on the file that includes them.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._parse: Any = import_module("snakemake.parser").parse
        source = import_module("snakemake.sourcecache").LocalSourceFile(_ANY_PATH)
        self._parsed = dict[str, _Parsed]()
        for file in files:
            opened = SimpleNamespace(open=lambda path, file=file: file.open(encoding="utf-8"))
            linemap = dict[int, int]()
            parsed = self._parse(source, SimpleNamespace(sourcecache=opened), linemap)
            self._parsed[file.read_text(encoding="utf-8")] = _Parsed(parsed[0], linemap, parsed[1])

    def install(self) -> None:
        vars(import_module("snakemake.workflow"))["parse"] = self.parse

    def parse(
        self, path: Any, workflow: Any, linemap: dict[int, int], rulecount: int
    ) -> tuple[str, int]:
        """Return what Snakemake's `parse` returns; fill `linemap` in the same way."""
        with workflow.sourcecache.open(path) as file:
            parsed = self._parsed.get(file.read())
        if parsed is None:
            code: tuple[str, int] = self._parse(path, workflow, linemap, rulecount=rulecount)
            return code
        linemap |= parsed.linemap
        name = path.get_path_or_uri(secret_free=True)
        return parsed.code.replace(repr(_ANY_PATH), repr(name)), rulecount + parsed.rules


# CWL and WDL.

_CWL_VERSIONS = ("v1.0", "v1.1", "v1.2")
_WDL_VERSIONS = ("draft-2", "1.0", "1.1", "1.2")


def _load_cwltool() -> None:
    """Also parse the schemas. A run needs two; parsing them takes longer than a small workflow."""
    import_module("wesemu.engines.cwl.worker")
    import_module("wesemu.engines.cwl.dry_run")
    for name in ("main", "executors", "argparser", "context", "job", "workflow"):
        import_module(f"cwltool.{name}")
    for version in _CWL_VERSIONS:
        vars(import_module("cwltool.process"))["get_schema"](version)


def _load_miniwdl() -> None:
    """Also build the parsers of all versions of the language."""
    import_module("wesemu.engines.wdl.worker")
    import_module("wesemu.engines.wdl.backend")
    _import(f"WDL.runtime.backend.{name}" for name in ("docker_swarm", "podman", "singularity"))
    library: Any = import_module("WDL")
    for version in _WDL_VERSIONS:
        head = "" if version == "draft-2" else f"version {version}\n"
        library.parse_document(f"{head}task empty {{ command {{}} }}")


# Modules that the workflows of a run import.


class PreloadedModules:
    """Imports the modules `names`. Ignores failures: the run that needs one reports the error."""

    def __init__(self, names: Sequence[str]) -> None:
        before = {*sys.modules}
        _import(names)
        packages = {name.partition(".")[0] for name in names}
        self._stamps = {
            name: _stamp(name)
            for name in {*sys.modules} - before
            if name.partition(".")[0] in packages
        }

    def forget_changed(self) -> None:
        """Remove all preloaded modules from sys.modules if the file of one has changed.

        The process of a run calls this; its imports then read the new files.
        """
        if any(_stamp(name) != stamp for name, stamp in self._stamps.items()):
            for name in self._stamps:
                sys.modules.pop(name, None)


def _stamp(name: str) -> tuple[int, int] | None:
    """Return modification time and size of the file of a module."""
    file = getattr(sys.modules.get(name), "__file__", None)
    try:
        status = Path(file or "").stat() if file else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size) if status else None
