"""A caller's options as words of Snakemake's command line, and as its own parser reads them."""

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from wesemu.engines.snakemake.order import Order
from wesemu.engines.snakemake.parameters import Options

_SETS = ("targets", "forcerun", "until", "omit_from", "allowed_rules")
_FLAGS = ("force", "forceall", "keep_going", "keep_incomplete", "notemp")
_PARSED = ("config", "default_resources", "set_resources", "set_threads", "set_scatter")
_LISTS = (*_SETS[1:], "rerun_triggers", *_PARSED)
_READ = frozenset({"cores", "retries", "targets", *_FLAGS, *_LISTS})
_PROFILE = Path("profiles/default")


def option_words(options: Options) -> list[str]:
    """All but the targets, which come last on a command line."""
    words = ["--retries", str(options.retries)] if options.retries else []
    for name in _FLAGS:
        words += [_option(name)] if getattr(options, name) else []
    for name in _LISTS:
        values = getattr(options, name)
        words += [_option(name), *values] if values else []
    for profile in options.profile:
        words += ["--profile", profile]
    for profile in options.workflow_profile:
        words += ["--workflow-profile", profile]
    return words


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def parsed_options(order: Order) -> Any:
    """The options by the names of Snakemake's parser, its profiles' settings included.

    What a profile sets that is the server's to decide (the executor, directories, …) is ignored,
    with a note. The working directory is the run's. Raises ValueError.
    """
    options = order.options
    if not _needs_parser(order):
        return SimpleNamespace(
            **{name: frozenset(getattr(options, name)) for name in _SETS},
            **{name: getattr(options, name) for name in _FLAGS},
            retries=options.retries,
            rerun_triggers=None,
            default_resources=None,
            set_resources={},
            set_threads={},
            set_scatter={},
            config={},
            cores=order.resources.cores,
        )
    _refuse_missing(order)
    os.environ.pop("SNAKEMAKE_PROFILE", None)
    file = ["--snakefile", str(order.workflow_file), "--executor", "local"]
    targets = ["--", *options.targets] if options.targets else []
    found = _parse([*file, *option_words(options), *targets])
    plain = vars(_parse([*file, "--workflow-profile", "none"]))
    ignored = [
        name
        for name, value in vars(found).items()
        if name not in _READ and value != plain.get(name) and "profile" not in name
    ]
    if ignored:
        told = ", ".join(sorted(ignored))
        sys.stderr.write(f"wesemu: these settings of a profile are the server's: {told}\n")
    cores = found.cores if isinstance(found.cores, int) else order.resources.cores
    found.cores = max(1, min(cores, order.resources.cores))
    found.config = import_module("snakemake.cli").parse_config(found.config)
    for name in _SETS:
        setattr(found, name, frozenset(getattr(found, name) or ()))
    return found


def _refuse_missing(order: Order) -> None:
    """Snakemake would look for a profile in the configuration of the server's user, too."""
    beside = order.workflow_file.parent / "profiles"
    for name in (*order.options.profile, *order.options.workflow_profile):
        places = (Path(name), Path("profiles", name), beside / name)
        if name != "none" and not any(place.exists() for place in places):
            raise ValueError(f"there is no profile {name} among the attachments")


def _needs_parser(order: Order) -> bool:
    options = order.options
    rich = (*_PARSED, "rerun_triggers", "profile", "workflow_profile")
    places = (_PROFILE, order.workflow_file.parent / _PROFILE, Path("default"))
    return any(getattr(options, name) for name in rich) or any(place.exists() for place in places)


def _parse(words: list[str]) -> Any:
    """Snakemake's own parser. It raises what it would otherwise print."""

    def refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
        raise ValueError(message)

    cli = import_module("snakemake.cli")
    original = argparse.ArgumentParser.error
    argparse.ArgumentParser.error = refuse  # type: ignore[assignment, method-assign]
    try:
        return cli.parse_args(words)[1]
    except SystemExit as ended:
        raise ValueError("Snakemake cannot read its options; see stderr") from ended
    finally:
        argparse.ArgumentParser.error = original  # type: ignore[method-assign]
