"""Container images of WDL tasks: which one a task names, and whether this machine can have it."""

import subprocess
import threading
from collections.abc import Mapping
from typing import Any

from wesemu.engines.hosted.containers import ContainerTool

_NAMES = ("container", "docker")
_FOUND: Mapping[str, list[str]] = {
    "docker": ["docker", "image", "inspect"],
    "podman": ["podman", "image", "exists"],
}
_PULL: Mapping[str, list[str]] = {"docker": ["docker", "pull"], "podman": ["podman", "pull"]}
_LOOK_SECONDS, _PULL_SECONDS = 30.0, 1800.0
_REASON_LIMIT = 300


def names_image(task: Any, inputs: Any) -> bool:
    """Whether a task's `runtime`, or an input that overrides it, asks for an image."""
    keys = {*_NAMES, "inlineDockerfile"}
    given = {
        binding.name
        for namespace in ("runtime", "requirements")
        for binding in inputs.enter_namespace(namespace)
    }
    return bool(keys & (set(task.runtime) | given))


def image_of(task: Any, inputs: Any) -> str | None:
    """The image by its name, as far as constants and inputs tell it."""
    for key in _NAMES:
        for namespace in ("runtime", "requirements"):
            for binding in inputs.enter_namespace(namespace):
                if binding.name == key:
                    return str(binding.value.value)
        expression = task.runtime.get(key)
        value = getattr(expression, "literal", None)
        if value is None and expression is not None:
            value = _of_input(str(expression), task, inputs)
        if isinstance(name := getattr(value, "value", None), str):
            return name
    return None


def _of_input(name: str, task: Any, inputs: Any) -> Any:
    """An input, or its default."""
    for binding in inputs:
        if binding.name == name:
            return binding.value
    for declaration in task.inputs or ():
        if declaration.name == name and declaration.expr is not None:
            return declaration.expr.literal
    return None


class Images:
    """Images of one container tool. Thread-safe; each image is looked for once."""

    def __init__(self, tool: ContainerTool) -> None:
        self._tool = tool
        self._lock = threading.Lock()
        self._known = dict[str, str | None]()

    def obtain(self, image: str) -> str | None:
        """None once the image is on this machine; else the reason why it cannot be had. Blocks.

        apptainer is not asked: it fetches an image when it is used.
        """
        with self._lock:
            if image not in self._known:
                self._known[image] = self._fetch(image)
            return self._known[image]

    def _fetch(self, image: str) -> str | None:
        if self._tool not in _FOUND:
            return None
        if _call([*_FOUND[self._tool], image], _LOOK_SECONDS) is None:
            return None
        return _call([*_PULL[self._tool], image], _PULL_SECONDS)


def _call(command: list[str], seconds: float) -> str | None:
    """None for success; else the last line of what the command says."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)[:_REASON_LIMIT]
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return (lines[-1] if lines else f"exit status {done.returncode}")[:_REASON_LIMIT]
