"""sailvol from Python: commit, reload and inspect mounted volumes, and reach their files without a mount.

    from sailvol import Volume

    volume = Volume.from_mount("/shared")
    result = volume.commit("epoch 3")
    print(result.record, result.bytes_sent)

``sailvol.aio.Volume`` is the same with coroutines; ``%load_ext sailvol`` gives notebooks the magic ``%sailvol``.
"""

from __future__ import annotations

from typing import Any

from .errors import (
    AlreadyExists,
    DamagedData,
    NoAccess,
    NotFound,
    NotMounted,
    OutcomeUnknown,
    ProgramMissing,
    Refused,
    SailvolError,
    StoreUnreachable,
    UsageError,
)
from .names import show, unshow
from .results import (
    Cache,
    Change,
    CommitResult,
    FileEntry,
    GetResult,
    LogEntry,
    Overwritten,
    Progress,
    ReloadResult,
    Removed,
    Rows,
    Stash,
    Status,
    Transfers,
    UnmountResult,
    Unshown,
)
from .volume import Volume, mounts

__version__ = "0.1.0"

__all__ = [
    "AlreadyExists",
    "Cache",
    "Change",
    "CommitResult",
    "DamagedData",
    "FileEntry",
    "GetResult",
    "LogEntry",
    "NoAccess",
    "NotFound",
    "NotMounted",
    "OutcomeUnknown",
    "Overwritten",
    "ProgramMissing",
    "Progress",
    "Refused",
    "ReloadResult",
    "Removed",
    "Rows",
    "SailvolError",
    "Stash",
    "Status",
    "StoreUnreachable",
    "Transfers",
    "UnmountResult",
    "Unshown",
    "UsageError",
    "Volume",
    "mounts",
    "show",
    "unshow",
]


def load_ipython_extension(ipython: Any) -> None:
    """Called by ``%load_ext sailvol``."""
    from .magic import register

    register(ipython)
