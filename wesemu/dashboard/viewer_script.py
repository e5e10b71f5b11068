"""Fetches igv.js, the viewer of reads: `python -m wesemu.dashboard.viewer_script`.

The build of the package runs this file, too (pyproject.toml, `tool.hatch.build.hooks`). igv.js is
not part of the source: it comes from the wheel of igv-notebook, which igv's own team publishes
under the MIT licence. Without it, everything but the viewer works.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

NAME, VERSION = "igv-notebook", "0.6.2"
SHA256 = "a79579c20aae3f922cd9bdf216930a3570f5408958fdd8ebabf7bf640aed0dbe"

FOLDER = Path(__file__).parent / "static" / "igv"
SCRIPT, LICENSE = FOLDER / "igv.js", FOLDER / "LICENSE.md"

_MEMBERS = {
    SCRIPT: "igv_notebook/js/igv.iife.js",
    LICENSE: f"igv_notebook-{VERSION}.dist-info/LICENSE.md",
}
_SECONDS = 60
COMMAND = "python -m wesemu.dashboard.viewer_script"


def fetch() -> None:
    """Download the wheel with pip, which compares its SHA-256, and extract script and licence.

    Raises OSError, subprocess.SubprocessError.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        locked = folder / "locked.txt"
        locked.write_text(f"{NAME}=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "--disable-pip-version-check", "download"),
                *("--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes"),
                *("--dest", str(folder), "--requirement", str(locked)),
            ],
            check=True,
            timeout=_SECONDS,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        (wheel,) = folder.glob("*.whl")
        FOLDER.mkdir(exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            for target, member in _MEMBERS.items():
                target.write_bytes(archive.read(member))


def main() -> int:
    try:
        fetch()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        print(f"{NAME} {VERSION} could not be fetched: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"the viewer is in {FOLDER}; restart the server")  # noqa: T201
    return 0


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # outside a build
    pass
else:

    class ViewerBuildHook(BuildHookInterface[Any]):  # type: ignore[misc]
        """Fetches the viewer while the package is built; a failure does not stop the build."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            if not SCRIPT.exists():
                try:
                    fetch()
                except (OSError, subprocess.SubprocessError, ValueError) as error:
                    self.app.display_warning(f"no viewer of reads: {error}; later: {COMMAND}")


if __name__ == "__main__":
    sys.exit(main())
