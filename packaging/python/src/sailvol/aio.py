"""The same volume for asyncio: every method of :class:`sailvol.Volume` that waits is a coroutine.

Each call runs in a thread, so the event loop stays free. Cancelling a coroutine gives up waiting; what the daemon has
begun goes on, as it does when any client goes away. ``on_progress`` is called in that thread.

Arguments, results and descriptions are those of :class:`sailvol.Volume`, and are written down only there: type checkers
take them from its methods, ``help()`` too.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, Callable, Coroutine, Optional, Protocol, TypeVar, Union, overload

from . import volume as sync
from .results import GetResult
from .volume import PathLike

if TYPE_CHECKING:
    # Part of the language from Python 3.10 on; type checkers bring it for older ones.
    from typing_extensions import Concatenate, ParamSpec

    P = ParamSpec("P")

R = TypeVar("R")


def _in_thread(
    method: Callable[Concatenate[sync.Volume, P], R],
) -> Callable[Concatenate[Volume, P], Coroutine[Any, Any, R]]:
    """A method of :class:`sailvol.Volume` as a coroutine."""

    @functools.wraps(method)
    async def call(self: Volume, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(method, self.sync, *args, **kwargs)

    return call


def _in_thread_for_itself(
    method: Callable[Concatenate[sync.Volume, P], sync.Volume],
) -> Callable[Concatenate[Volume, P], Coroutine[Any, Any, Volume]]:
    """The same of one that returns the volume."""

    @functools.wraps(method)
    async def call(self: Volume, /, *args: P.args, **kwargs: P.kwargs) -> Volume:
        await asyncio.to_thread(method, self.sync, *args, **kwargs)
        return self

    return call


def _opening(
    opens: Callable[P, sync.Volume],
) -> classmethod[Volume, P, Coroutine[Any, Any, Volume]]:
    """The same of a class method that gives a volume."""

    # Described by the function, which has ``cls`` in its signature as this one has.
    @functools.wraps(getattr(opens, "__func__"))
    async def call(cls: type[Volume], /, *args: P.args, **kwargs: P.kwargs) -> Volume:
        return cls(await asyncio.to_thread(opens, *args, **kwargs))

    return classmethod(call)


class _OpenVolume(Protocol):
    async def __call__(
        self, name: str, mint_if_missing: bool = False, *, store: Optional[str] = None
    ) -> Volume: ...


class _GetFiles(Protocol):
    async def __call__(self, path: PathLike, local: PathLike = ".", *, force: bool = False) -> GetResult: ...


class _Get:
    """``await Volume.get(NAME)`` opens a volume, ``await volume.get(PATH)`` copies files out of it."""

    @overload
    def __get__(self, instance: None, owner: type[Volume]) -> _OpenVolume: ...
    @overload
    def __get__(self, instance: Volume, owner: type[Volume]) -> _GetFiles: ...
    def __get__(self, instance: Optional[Volume], owner: type[Volume]) -> Union[_OpenVolume, _GetFiles]:
        return owner._open if instance is None else instance._get_files


class Volume:
    """See :class:`sailvol.Volume`."""

    get = _Get()

    def __init__(self, volume: sync.Volume) -> None:
        #: The volume that does the work.
        self.sync = volume

    def __repr__(self) -> str:
        return repr(self.sync).replace("sailvol.Volume", "sailvol.aio.Volume")

    _open = _opening(sync.Volume._open)
    from_mount = _opening(sync.Volume.from_mount)

    @property
    def name(self) -> str:
        """Name or URL of the volume."""
        return self.sync.name

    @property
    def mount_dir(self) -> Optional[str]:
        """Where it is mounted, as far as this object knows."""
        return self.sync.mount_dir

    mount = _in_thread_for_itself(sync.Volume.mount)
    unmount = _in_thread(sync.Volume.unmount)

    async def __aenter__(self) -> Volume:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.sync.mount_dir is not None:
            await self.unmount()

    commit = _in_thread(sync.Volume.commit)
    reload = _in_thread(sync.Volume.reload)
    status = _in_thread(sync.Volume.status)
    diff = _in_thread(sync.Volume.diff)
    log = _in_thread(sync.Volume.log)
    stashes = _in_thread(sync.Volume.stashes)
    restore_stash = _in_thread(sync.Volume.restore_stash)
    drop_stash = _in_thread(sync.Volume.drop_stash)
    prefetch = _in_thread(sync.Volume.prefetch)

    listdir = _in_thread(sync.Volume.listdir)
    read_file = _in_thread(sync.Volume.read_file)
    put = _in_thread(sync.Volume.put)
    _get_files = _in_thread(sync.Volume._get_files)
    remove = _in_thread(sync.Volume.remove)
