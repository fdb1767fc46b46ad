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
    DamagedData,
    NoAccess,
    NotMounted,
    OutcomeUnknown,
    ProgramMissing,
    Refused,
    SailvolError,
    StoreUnreachable,
    UsageError,
)
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
)
from .volume import Volume, mounts

__version__ = "0.1.0"

__all__ = [
    "Cache",
    "Change",
    "CommitResult",
    "DamagedData",
    "FileEntry",
    "GetResult",
    "LogEntry",
    "NoAccess",
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
    "UsageError",
    "Volume",
    "mounts",
]


def load_ipython_extension(ipython: Any) -> None:
    """Called by ``%load_ext sailvol``."""
    from .magic import register

    register(ipython)
