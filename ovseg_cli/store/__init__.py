"""The on-disk store of classes and their prototypes."""

from ovseg_cli.places import default_store_path
from ovseg_cli.store.health import IndexHealth, StoreHealth
from ovseg_cli.store.records import (
    ClassInfo,
    ClassRecord,
    ExtractorRecord,
    PrototypeBlock,
    PrototypeInfo,
    PrototypeRecord,
    RunInfo,
    RunItem,
    RunRecord,
    StoredSupport,
    SupportRecord,
)
from ovseg_cli.store.store import Store
from ovseg_cli.store.support import read_mask

__all__ = [
    "ClassInfo",
    "ClassRecord",
    "ExtractorRecord",
    "IndexHealth",
    "PrototypeBlock",
    "PrototypeInfo",
    "PrototypeRecord",
    "RunInfo",
    "RunItem",
    "RunRecord",
    "Store",
    "StoreHealth",
    "StoredSupport",
    "SupportRecord",
    "default_store_path",
    "read_mask",
]
