"""The same volume for asyncio: every method of :class:`sailvol.Volume` that waits is a coroutine.

Each call runs in a thread, so the event loop stays free. Cancelling a coroutine gives up waiting; what the daemon has
begun goes on, as it does when any client goes away. ``on_progress`` is called in that thread.
"""

from __future__ import annotations

import asyncio
from typing import Any, Optional, Sequence, Union

from . import volume as sync
from .control import OnProgress
from .results import (
    Change,
    CommitResult,
    FileEntry,
    GetResult,
    LogEntry,
    ReloadResult,
    Removed,
    Rows,
    Stash,
    Status,
    UnmountResult,
)
from .volume import STORE_SECONDS, PathLike


class _Get:
    """``await Volume.get(NAME)`` opens a volume, ``await volume.get(PATH)`` copies files out of it."""

    def __get__(self, instance: Optional[Volume], owner: type[Volume]) -> Any:
        return owner._open if instance is None else instance._get_files


class Volume:
    """See :class:`sailvol.Volume`."""

    get = _Get()

    def __init__(self, volume: sync.Volume) -> None:
        #: The volume that does the work.
        self.sync = volume

    def __repr__(self) -> str:
        return repr(self.sync).replace("sailvol.Volume", "sailvol.aio.Volume")

    @classmethod
    async def _open(cls, name: str, mint_if_missing: bool = False, *, store: Optional[str] = None) -> Volume:
        return cls(await asyncio.to_thread(sync.Volume.get, name, mint_if_missing, store=store))

    @classmethod
    async def from_mount(
        cls, directory: Optional[PathLike] = None, *, runtime_dir: Optional[PathLike] = None
    ) -> Volume:
        return cls(await asyncio.to_thread(sync.Volume.from_mount, directory, runtime_dir=runtime_dir))

    @property
    def name(self) -> str:
        return self.sync.name

    @property
    def mount_dir(self) -> Optional[str]:
        return self.sync.mount_dir

    async def mount(
        self,
        directory: PathLike,
        *,
        read_only: bool = False,
        at: Optional[int] = None,
        options: Sequence[str] = (),
    ) -> Volume:
        await asyncio.to_thread(self.sync.mount, directory, read_only=read_only, at=at, options=options)
        return self

    async def unmount(self, *, commit: bool = False, message: str = "", force: bool = False) -> UnmountResult:
        return await asyncio.to_thread(self.sync.unmount, commit=commit, message=message, force=force)

    async def __aenter__(self) -> Volume:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.sync.mount_dir is not None:
            await self.unmount()

    async def commit(
        self,
        message: str = "",
        *,
        dry_run: bool = False,
        wait: bool = True,
        timeout: float = STORE_SECONDS,
        on_progress: Optional[OnProgress] = None,
    ) -> CommitResult:
        return await asyncio.to_thread(
            self.sync.commit, message, dry_run=dry_run, wait=wait, timeout=timeout, on_progress=on_progress
        )

    async def reload(
        self,
        *,
        keep: bool = False,
        if_clean: bool = False,
        to: Optional[int] = None,
        wait: bool = True,
        timeout: float = STORE_SECONDS,
        on_progress: Optional[OnProgress] = None,
    ) -> ReloadResult:
        return await asyncio.to_thread(
            self.sync.reload,
            keep=keep,
            if_clean=if_clean,
            to=to,
            wait=wait,
            timeout=timeout,
            on_progress=on_progress,
        )

    async def status(self, *, ask_store: bool = True) -> Status:
        return await asyncio.to_thread(self.sync.status, ask_store=ask_store)

    async def diff(
        self, *, limit: int = 1000, from_record: Optional[int] = None, to_record: Optional[int] = None
    ) -> Rows[Change]:
        return await asyncio.to_thread(
            self.sync.diff, limit=limit, from_record=from_record, to_record=to_record
        )

    async def log(self, *, limit: int = 20) -> Rows[LogEntry]:
        return await asyncio.to_thread(self.sync.log, limit=limit)

    async def stashes(self) -> Rows[Stash]:
        return await asyncio.to_thread(self.sync.stashes)

    async def restore_stash(self, stash: Union[Stash, int]) -> None:
        await asyncio.to_thread(self.sync.restore_stash, stash)

    async def drop_stash(self, stash: Union[Stash, int]) -> None:
        await asyncio.to_thread(self.sync.drop_stash, stash)

    async def prefetch(
        self, path: str, *, force: bool = False, on_progress: Optional[OnProgress] = None
    ) -> None:
        await asyncio.to_thread(self.sync.prefetch, path, force=force, on_progress=on_progress)

    async def listdir(
        self, path: str = "/", *, recursive: bool = False, limit: int = 10_000
    ) -> Rows[FileEntry]:
        return await asyncio.to_thread(self.sync.listdir, path, recursive=recursive, limit=limit)

    async def read_file(self, path: str) -> bytes:
        return await asyncio.to_thread(self.sync.read_file, path)

    async def put(
        self, source: Union[PathLike, bytes], path: str, *, message: str = "", force: bool = False
    ) -> CommitResult:
        return await asyncio.to_thread(self.sync.put, source, path, message=message, force=force)

    async def _get_files(self, path: str, local: PathLike = ".", *, force: bool = False) -> GetResult:
        return await asyncio.to_thread(self.sync.get, path, local, force=force)

    async def remove(
        self, path: str, *, recursive: bool = False, missing_ok: bool = False, message: str = ""
    ) -> Removed:
        return await asyncio.to_thread(
            self.sync.remove, path, recursive=recursive, missing_ok=missing_ok, message=message
        )
