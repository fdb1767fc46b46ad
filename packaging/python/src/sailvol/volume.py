"""Volumes and their mounts."""

from __future__ import annotations

import os
from typing import Any, Mapping, Optional, Protocol, Sequence, Union, overload

from . import control, program
from .control import OnProgress
from .errors import NotMounted, UsageError
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

PathLike = Union[str, "os.PathLike[str]"]

#: Seconds for a daemon to end after it has unmounted.
END_SECONDS = 5.0
#: Seconds that commit and reload wait for the store, unless told otherwise.
STORE_SECONDS = 30.0


class _OpenVolume(Protocol):
    def __call__(
        self, name: str, mint_if_missing: bool = False, *, store: Optional[str] = None
    ) -> Volume: ...


class _GetFiles(Protocol):
    def __call__(self, path: str, local: PathLike = ".", *, force: bool = False) -> GetResult: ...


class _Get:
    """``Volume.get(NAME)`` opens a volume, ``volume.get(PATH)`` copies files out of it."""

    @overload
    def __get__(self, instance: None, owner: type[Volume]) -> _OpenVolume: ...
    @overload
    def __get__(self, instance: Volume, owner: type[Volume]) -> _GetFiles: ...
    def __get__(self, instance: Optional[Volume], owner: type[Volume]) -> Union[_OpenVolume, _GetFiles]:
        return owner._open if instance is None else instance._get_files


class Volume:
    """One volume, and the mount through which it is used, if there is one.

    ``Volume.get(name)`` opens a volume of the store (and makes it, with ``mint_if_missing``); ``Volume.from_mount(dir)``
    takes one that is mounted. Methods that act on a mount (``commit``, ``reload``, ``status``, ...) ask the mount's
    daemon over its control socket; files of the volume itself (``listdir``, ``read_file``, ``put``, ...) are handled
    by the ``sailvol`` program and show the newest record, as everybody sees it, not the mount's local changes.

    Every method raises a subclass of :class:`~sailvol.SailvolError`.
    """

    get = _Get()

    def __init__(self, name: str, *, store: Optional[str] = None, record: Optional[control.MountRecord] = None) -> None:
        #: Name or URL of the volume.
        self.name = name
        #: URL of the store in which the name is looked up; None is the program's default (``SAILVOL_STORE``).
        self.store = store
        self._record = record

    def __repr__(self) -> str:
        at = "" if self._record is None else f", mounted on {self._record.dir!r}"
        return f"<sailvol.Volume {self.name!r}{at}>"

    @classmethod
    def _open(cls, name: str, mint_if_missing: bool = False, *, store: Optional[str] = None) -> Volume:
        """The volume of that name (or URL).

        Args:
            name: a name, looked up in ``store``, or a URL.
            mint_if_missing: make it if it is not there.
            store: URL of the store; by default ``SAILVOL_STORE``, else a directory on this machine.

        Raises:
            SailvolError: it is not there.
        """
        volume = cls(name, store=store)
        if mint_if_missing:
            volume._run_json(["volume", "create", "--if-missing", "--", name])
        else:
            volume._run_json(["volume", "info", "--", name])
        return volume

    @classmethod
    def from_mount(cls, directory: Optional[PathLike] = None, *, runtime_dir: Optional[PathLike] = None) -> Volume:
        """The volume that is mounted at or above ``directory``.

        Args:
            directory: by default the current one, else the only mount there is.
            runtime_dir: where its control socket is, if that is not the default.

        Raises:
            NotMounted: there is no mount, or its daemon is gone.
        """
        record = control.find_mount(directory, runtime_dir)
        return cls(record.volume, store=record.store, record=record)

    # The mount.

    @property
    def mount_dir(self) -> Optional[str]:
        """Where it is mounted, as far as this object knows."""
        return None if self._record is None else self._record.dir

    def mount(
        self,
        directory: PathLike,
        *,
        read_only: bool = False,
        at: Optional[int] = None,
        options: Sequence[str] = (),
    ) -> Volume:
        """Mounts it and returns itself; leaving a ``with`` block unmounts again, keeping uncommitted work.

        Args:
            directory: an empty directory.
            read_only: accept no writes.
            at: show this record, and stay there until a reload to another.
            options: more options of ``sailvol mount``, such as ``["--cache-size=10G"]``.
        """
        arguments = ["mount", *options]
        if read_only:
            arguments.append("--read-only")
        if at is not None:
            arguments += ["--at", str(at)]
        ready = self._run_json([*arguments, "--", self.name, os.fspath(directory)])
        runtime = next((o.split("=", 1)[1] for o in options if o.startswith("--runtime-dir=")), None)
        self._record = control.find_mount(ready["dir"], runtime)
        return self

    def unmount(self, *, commit: bool = False, message: str = "", force: bool = False) -> UnmountResult:
        """Unmounts. Uncommitted work stays on this machine for the next mount of the same volume under the same name.

        Args:
            commit: commit first; when that fails the mount stays.
            message: of that commit.
            force: although programs use it.
        """
        with self._connect() as connection:
            request = {"commit": commit, "message": message, "force": force, "timeout_secs": int(STORE_SECONDS)}
            answer = connection.call("unmount", request)
            # It answers when the mount is gone, and holds cache and state a moment longer.
            connection.wait_for_end(END_SECONDS)
        self._record = None
        return UnmountResult.parse(answer)

    def __enter__(self) -> Volume:
        return self

    def __exit__(self, *_: object) -> None:
        if self._record is not None:
            self.unmount()

    def commit(
        self,
        message: str = "",
        *,
        dry_run: bool = False,
        wait: bool = True,
        timeout: float = STORE_SECONDS,
        on_progress: Optional[OnProgress] = None,
    ) -> CommitResult:
        """Publishes all local changes as one record.

        Args:
            message: text for the log.
            dry_run: say what would be published, publish nothing.
            wait: for another commit or reload that runs; else :class:`~sailvol.Refused`.
            timeout: seconds without an answer from the store after which it gives up.
            on_progress: called with a :class:`~sailvol.Progress` while it runs.

        Raises:
            OutcomeUnknown: it cannot be known whether the record was published; the next commit settles it.
        """
        request = {"message": message, "dry_run": dry_run, "no_wait": not wait, "timeout_secs": _seconds(timeout)}
        return CommitResult.parse(self._call("commit", request, on_progress))

    def reload(
        self,
        *,
        keep: bool = False,
        if_clean: bool = False,
        to: Optional[int] = None,
        wait: bool = True,
        timeout: float = STORE_SECONDS,
        on_progress: Optional[OnProgress] = None,
    ) -> ReloadResult:
        """Moves the view to the newest record. Local changes go to a stash, unless told otherwise.

        Args:
            keep: put local changes on top of the new record.
            if_clean: refuse when there are local changes.
            to: this record instead of the newest.
            wait: for another commit or reload that runs; else :class:`~sailvol.Refused`.
            timeout: seconds without an answer from the store after which it gives up.
            on_progress: called with a :class:`~sailvol.Progress` while it runs.
        """
        if keep and if_clean:
            raise UsageError("keep and if_clean exclude each other")
        local = "keep" if keep else "if-clean" if if_clean else "stash"
        request = {"local": local, "to": to, "no_wait": not wait, "timeout_secs": _seconds(timeout)}
        return ReloadResult.parse(self._call("reload", request, on_progress))

    def status(self, *, ask_store: bool = True) -> Status:
        """The state of the mount; ``ask_store`` asks for the newest record (at most a few seconds)."""
        return Status.parse(self._call("status", {"ask_store": ask_store}))

    def diff(
        self, *, limit: int = 1000, from_record: Optional[int] = None, to_record: Optional[int] = None
    ) -> Rows[Change]:
        """What a commit would publish, or, with ``from_record``, what differs between two records."""
        answer = self._call("diff", {"limit": limit, "from": from_record, "to": to_record})
        return Rows((Change.parse(item) for item in answer["changes"]), bool(answer["truncated"]))

    def log(self, *, limit: int = 20) -> Rows[LogEntry]:
        """The newest records, the newest first."""
        return Rows(LogEntry.parse(item) for item in self._call("log", {"limit": limit}))

    def stashes(self) -> Rows[Stash]:
        """Local changes that reloads set aside, the newest first."""
        return Rows(Stash.parse(item) for item in self._call("stash-list", {}))

    def restore_stash(self, stash: Union[Stash, int]) -> None:
        """Puts a stash's changes onto the view."""
        self._call("stash-restore", {"id": stash.id if isinstance(stash, Stash) else stash})

    def drop_stash(self, stash: Union[Stash, int]) -> None:
        """Deletes a stash."""
        self._call("stash-drop", {"id": stash.id if isinstance(stash, Stash) else stash})

    def prefetch(self, path: str, *, force: bool = False, on_progress: Optional[OnProgress] = None) -> None:
        """Brings the bytes below a path of the volume into the cache; ``force`` also if they do not all fit."""
        self._call("prefetch", {"path": path, "force": force}, on_progress)

    # Files of the volume, without a mount.

    def listdir(self, path: str = "/", *, recursive: bool = False, limit: int = 10_000) -> Rows[FileEntry]:
        """What is in a directory of the newest record (a file is listed by itself)."""
        options = ["--recursive"] if recursive else []
        answer = self._run_json(["ls", f"--limit={limit}", *options, "--", self._path(path)])
        return Rows((FileEntry.parse(item) for item in answer["entries"]), bool(answer["truncated"]))

    def read_file(self, path: str) -> bytes:
        """The content of a file of the newest record, all of it in memory."""
        return program.run(["cat", "--", self._path(path)], environment=self._environment())

    def put(
        self,
        source: Union[PathLike, bytes],
        path: str,
        *,
        message: str = "",
        force: bool = False,
    ) -> CommitResult:
        """Copies a local file or directory (or bytes) into the volume, as one record.

        Args:
            source: a path, or the content of the file itself.
            path: where to; a directory, or a path that ends in a slash, is copied into.
            message: text for the log.
            force: replace files that are there already.
        """
        options = ["--force"] if force else []
        data = source if isinstance(source, bytes) else None
        named = "-" if isinstance(source, bytes) else os.path.join(".", os.fspath(source))
        arguments = ["put", *options, "--message", message, "--", named, self._path(path)]
        return CommitResult.parse(self._run_json(arguments, data=data))

    def _get_files(self, path: str, local: PathLike = ".", *, force: bool = False) -> GetResult:
        """Copies a file or directory of the newest record to this machine; ``force`` replaces files."""
        options = ["--force"] if force else []
        target = os.path.join(".", os.fspath(local))
        return GetResult.parse(self._run_json(["get", *options, "--", self._path(path), target]))

    def remove(
        self, path: str, *, recursive: bool = False, missing_ok: bool = False, message: str = ""
    ) -> Removed:
        """Removes a file, or with ``recursive`` a directory, as one record; older records keep it."""
        options = ["--recursive"] if recursive else []
        options += ["--force"] if missing_ok else []
        return Removed.parse(self._run_json(["rm", *options, "--message", message, "--", self._path(path)]))

    # How the two are asked.

    def _connect(self) -> control.Connection:
        if self._record is None:
            raise NotMounted(f"{self.name} is not mounted here", "call mount(), or begin with Volume.from_mount()")
        return control.Connection(self._record.socket)

    def _call(self, method: str, params: Mapping[str, Any], on_progress: Optional[OnProgress] = None) -> Any:
        with self._connect() as connection:
            return connection.call(method, params, on_progress)

    def _environment(self) -> Optional[dict[str, str]]:
        return None if self.store is None else {"SAILVOL_STORE": self.store}

    def _run_json(self, arguments: Sequence[str], **options: Any) -> Any:
        return program.run_json(arguments, environment=self._environment(), **options)

    def _path(self, path: str) -> str:
        if not path or "\0" in path:
            raise UsageError(f"{path!r} is no path in a volume")
        return f"{self.name}:/{path.lstrip('/')}"


def _seconds(timeout: float) -> int:
    if timeout <= 0:
        raise UsageError("a timeout is more than 0 seconds")
    return max(1, int(timeout))


def mounts(*, runtime_dir: Optional[PathLike] = None) -> list[Volume]:
    """The volumes that are mounted on this machine."""
    return [Volume(m.volume, store=m.store, record=m) for m in control.mounts(runtime_dir)]


