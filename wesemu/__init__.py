"""wesemu: a local emulator of GA4GH WES and Alibaba Cloud Genomics Service that runs real tools.

`Client` and `AsyncClient` are imported at their first use.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wesemu.client import AsyncClient as AsyncClient
    from wesemu.client import Client as Client

__version__ = "0.2.0"
__all__ = ["AsyncClient", "Client", "__version__"]


def __getattr__(name: str) -> object:
    if name not in ("AsyncClient", "Client"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from wesemu import client

    return getattr(client, name)
