"""Names in a bucket's folder that are no keys: what the server keeps there, and temporary files.

`.wesemu/` at a bucket's top holds `records/` (what a file alone cannot tell of an object),
`incoming/` (objects on their way in) and `uploads/` (parts). It lies in the bucket so that it is
on the same file system, whatever a bucket's folder is linked to, and is moved along with it.
"""

import os
from pathlib import Path

FOLDER = ".wesemu"
RECORDS = f"{FOLDER}/records"
INCOMING = f"{FOLDER}/incoming"
UPLOADS = f"{FOLDER}/uploads"


def is_hidden(key: str) -> bool:
    """True for what no client may see or write.

    `.<name>.part` is what a file is called while a job or the command line writes it. Case does
    not matter: on some file systems `.WESEMU` is the same folder.
    """
    name = key.rpartition("/")[2]
    return key.partition("/")[0].casefold() == FOLDER or (
        name.startswith(".") and name.endswith(".part")
    )


def sync_folders(folder: Path, top: Path) -> None:
    """Make names durable in `folder` and in those above it, up to `top`."""
    for parent in (folder, *folder.parents):
        descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if parent == top:
            return


def remove_empty(folder: Path) -> bool:
    """Remove a folder and all empty ones below it; False where a file is left somewhere."""
    for parent, _, _ in os.walk(folder, topdown=False):
        try:
            Path(parent).rmdir()
        except OSError:
            return False
    return True
