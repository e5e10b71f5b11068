"""All that is done with objects, over one folder of buckets."""

from dataclasses import dataclass
from pathlib import Path

from wesemu.ids import IdSource
from wesemu.objects.crc64 import find_crc64
from wesemu.objects.shelves import Shelves
from wesemu.objects.store import ObjectStore
from wesemu.objects.uploads import Uploads


@dataclass(frozen=True, slots=True)
class ObjectServices:
    store: ObjectStore
    shelves: Shelves
    uploads: Uploads

    @classmethod
    def open(cls, root: Path, ids: IdSource) -> "ObjectServices":
        """Also removes what an earlier server left half-written; only one may use `root`."""
        store = ObjectStore(root, find_crc64())
        shelves = Shelves(root, store)
        shelves.sweep()
        return cls(store, shelves, Uploads(store, ids))
