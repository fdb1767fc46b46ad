"""Volumes and their mounts."""

from __future__ import annotations

import functools
import inspect
import math
import os
from typing import TYPE_CHECKING, Any, Callable, Mapping, Optional, Protocol, Sequence, TypeVar, Union, overload

from . import control, program
from .control import OnProgress
from .errors import Inside, NotFound, NotMounted, SailvolError, UsageError
from .names import AnyPath, path_bytes, show
from .program import Word
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

if TYPE_CHECKING:
    # Part of the language from Python 3.10 on; type checkers bring it for older ones.
    from typing_extensions import ParamSpec

    P = ParamSpec("P")

R = TypeVar("R")

PathLike = AnyPath

#: Seconds for a daemon to end after it has unmounted.
END_SECONDS = 5.0
#: Seconds that commit and reload wait for the store, unless told otherwise.
STORE_SECONDS = 30.0
#: Longest wait that can be asked for, seconds: for ever.
SECONDS_MAX = 10 * 365 * 86_400
#: Bytes of UTF-8 that a message may have.
MESSAGE_BYTES_MAX = 64 << 10


def _ours(method: Callable[P, R]) -> Callable[P, R]:
    """A method of which every failure is a :class:`~sailvol.SailvolError`, whatever went wrong inside.

    A call that does not fit its signature stays a :class:`TypeError`: that is a mistake in the program.
    """
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        signature.bind(*args, **kwargs)
        with Inside():
            return method(*args, **kwargs)

    return call


class _OpenVolume(Protocol):
    def __call__(
        self, name: str, mint_if_missing: bool = False, *, store: Optional[str] = None
    ) -> Volume: ...


class _GetFiles(Protocol):
    def __call__(self, path: PathLike, local: PathLike = ".", *, force: bool = False) -> GetResult: ...


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

    Every method raises a subclass of :class:`~sailvol.SailvolError`, and nothing else; what is not there is a
    :class:`FileNotFoundError` as well, a taken name a :class:`FileExistsError`, missing permissions a
    :class:`PermissionError`.

    Paths are ``str``, ``bytes`` or :class:`os.PathLike`; names that are not UTF-8 come as :mod:`os` gives them, with
    ``surrogateescape``.
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
    @_ours
    def _open(cls, name: str, mint_if_missing: bool = False, *, store: Optional[str] = None) -> Volume:
        """The volume of that name (or URL).

        Args:
            name: a name, looked up in ``store``, or a URL.
            mint_if_missing: make it if it is not there.
            store: URL of the store; by default ``SAILVOL_STORE``, else a directory on this machine.

        Raises:
            NotFound: it is not there.
        """
        volume = cls(name, store=store)
        if mint_if_missing:
            volume._run_json(["volume", "create", "--if-missing", "--", name])
        else:
            volume._run_json(["volume", "info", "--", name])
        return volume

    @classmethod
    @_ours
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

    @_ours
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
        arguments: list[Word] = ["mount", *options]
        if read_only:
            arguments.append("--read-only")
        if at is not None:
            arguments += ["--at", str(at)]
        self._run_json([*arguments, "--", self.name, path_bytes(directory)])
        runtime = next((o.split("=", 1)[1] for o in options if o.startswith("--runtime-dir=")), None)
        self._record = control.find_mount(directory, runtime)
        return self

    @_ours
    def unmount(self, *, commit: bool = False, message: str = "", force: bool = False) -> UnmountResult:
        """Unmounts. Uncommitted work stays on this machine for the next mount of the same volume under the same name.

        Args:
            commit: commit first; when that fails the mount stays.
            message: of that commit.
            force: although programs use it.
        """
        with self._connect() as connection:
            request = {
                "commit": commit,
                "message": _message(message),
                "force": force,
                "timeout_secs": int(STORE_SECONDS),
            }
            answer = connection.call("unmount", request)
            # It answers when the mount is gone, and holds cache and state a moment longer.
            connection.wait_for_end(END_SECONDS)
        self._record = None
        return _read(UnmountResult.parse, answer)

    def __enter__(self) -> Volume:
        return self

    def __exit__(self, *_: object) -> None:
        if self._record is not None:
            self.unmount()

    @_ours
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
        request = {
            "message": _message(message),
            "dry_run": dry_run,
            "no_wait": not wait,
            "timeout_secs": _seconds(timeout),
        }
        return _read(CommitResult.parse, self._call("commit", request, on_progress))

    @_ours
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
            to: this record instead of the newest; -1 is the one before the mount's, -2 the one before that.
            wait: for another commit or reload that runs; else :class:`~sailvol.Refused`.
            timeout: seconds without an answer from the store after which it gives up.
            on_progress: called with a :class:`~sailvol.Progress` while it runs.
        """
        if keep and if_clean:
            raise UsageError("keep and if_clean exclude each other")
        local = "keep" if keep else "if-clean" if if_clean else "stash"
        request = {"local": local, "to": to, "no_wait": not wait, "timeout_secs": _seconds(timeout)}
        return _read(ReloadResult.parse, self._call("reload", request, on_progress))

    @_ours
    def status(self, *, ask_store: bool = True) -> Status:
        """The state of the mount; ``ask_store`` asks for the newest record (at most a few seconds)."""
        return _read(Status.parse, self._call("status", {"ask_store": ask_store}))

    @_ours
    def diff(
        self,
        path: Optional[PathLike] = None,
        *,
        limit: int = 1000,
        from_record: Optional[int] = None,
        to_record: Optional[int] = None,
    ) -> Rows[Change]:
        """What a commit would publish, or, with ``from_record``, what differs between two records.

        Args:
            path: only at and below it; in the volume, or in the directory where it is mounted.
            limit: at most so many paths.
            from_record: the older record; -1 is the one before the mount's.
            to_record: the newer one, by default the mount's.
        """
        request = {"limit": _count(limit), "from": from_record, "to": to_record}
        if path is None:
            answer = self._call("diff", request)
        else:
            answer = self._call_about("diff", path, request)
        return _read(lambda said: Rows(map(Change.parse, said["changes"]), bool(said["truncated"])), answer)

    @_ours
    def log(self, *, limit: int = 20) -> Rows[LogEntry]:
        """The newest records, the newest first."""
        return _read(lambda said: Rows(map(LogEntry.parse, said)), self._call("log", {"limit": _count(limit)}))

    @_ours
    def stashes(self) -> Rows[Stash]:
        """Local changes that reloads set aside, the newest first."""
        return _read(lambda said: Rows(map(Stash.parse, said)), self._call("stash-list", {}))

    @_ours
    def restore_stash(self, stash: Union[Stash, int]) -> ReloadResult:
        """Puts a stash's changes onto the view, and drops the stash; ``kept`` of the result names the paths."""
        return _read(ReloadResult.parse, self._call("stash-restore", {"id": _number(stash)}))

    @_ours
    def drop_stash(self, stash: Union[Stash, int]) -> None:
        """Deletes a stash."""
        self._call("stash-drop", {"id": _number(stash)})

    @_ours
    def prefetch(self, path: PathLike, *, force: bool = False, on_progress: Optional[OnProgress] = None) -> None:
        """Brings the bytes below a path into the cache.

        Args:
            path: in the volume (``/train``), or in the directory where it is mounted (``/shared/train``).
            force: also if they do not all fit.
            on_progress: called with a :class:`~sailvol.Progress` while it runs.
        """
        self._call_about("prefetch", path, {"force": force}, on_progress)

    # Files of the volume, without a mount.

    @_ours
    def listdir(self, path: PathLike = "/", *, recursive: bool = False, limit: int = 10_000) -> Rows[FileEntry]:
        """What is in a directory of the newest record (a file is listed by itself)."""
        options = ["--recursive"] if recursive else []
        answer = self._run_json(["ls", f"--limit={_count(limit)}", *options, "--", self._path(path)])
        return _read(lambda said: Rows(map(FileEntry.parse, said["entries"]), bool(said["truncated"])), answer)

    @_ours
    def read_file(self, path: PathLike) -> bytes:
        """The content of a file of the newest record, all of it in memory."""
        return program.run(["cat", "--", self._path(path)], environment=self._environment())

    @_ours
    def put(
        self,
        source: Union[str, "os.PathLike[str]", "os.PathLike[bytes]", bytes],
        path: PathLike,
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
        named = b"-" if isinstance(source, bytes) else os.path.join(b".", path_bytes(source))
        arguments: list[Word] = ["put", *options, f"--message={_message(message)}", "--", named, self._path(path)]
        return _read(CommitResult.parse, self._run_json(arguments, data=data))

    @_ours
    def _get_files(self, path: PathLike, local: PathLike = ".", *, force: bool = False) -> GetResult:
        """Copies a file or directory of the newest record to this machine; ``force`` replaces files."""
        options = ["--force"] if force else []
        target = os.path.join(b".", path_bytes(local))
        return _read(GetResult.parse, self._run_json(["get", *options, "--", self._path(path), target]))

    @_ours
    def remove(
        self, path: PathLike, *, recursive: bool = False, missing_ok: bool = False, message: str = ""
    ) -> Removed:
        """Removes a file, or with ``recursive`` a directory, as one record; older records keep it."""
        options = ["--recursive"] if recursive else []
        options += ["--force"] if missing_ok else []
        arguments: list[Word] = ["rm", *options, f"--message={_message(message)}", "--", self._path(path)]
        return _read(Removed.parse, self._run_json(arguments))

    # How the two are asked.

    def _connect(self) -> control.Connection:
        if self._record is None:
            raise NotMounted(f"{self.name} is not mounted here", "call mount(), or begin with Volume.from_mount()")
        return control.Connection(self._record.socket)

    def _call(self, method: str, params: Mapping[str, Any], on_progress: Optional[OnProgress] = None) -> Any:
        with self._connect() as connection:
            return connection.call(method, params, on_progress)

    def _call_about(
        self, method: str, path: PathLike, params: Mapping[str, Any], on_progress: Optional[OnProgress] = None
    ) -> Any:
        """Asks about a path that is one in the volume, or one below the directory where it is mounted."""
        given = path_bytes(path)
        inside = None
        if self._record is not None:
            directory = os.path.normpath(path_bytes(self._record.dir))
            below = os.path.normpath(os.path.join(os.path.realpath(os.path.dirname(given)), os.path.basename(given)))
            if os.path.isabs(given):
                inside = next((p for p in (os.path.normpath(given), below) if _is_below(p, directory)), None)
                if inside is None:
                    # A link to the mount's directory, or into it.
                    real = os.path.realpath(given)
                    inside = real if _is_below(real, directory) else None
        if inside is not None:
            relative = os.path.relpath(inside, directory)
            found = {**params, "path": "/" if relative == b"." else show(relative)}
            try:
                return self._call(method, found, on_progress)
            except NotFound as error:
                # A directory of the volume may bear the name of the mount's.
                try:
                    return self._call(method, {**params, "path": show(given)}, on_progress)
                except NotFound:
                    raise error from None
        return self._call(method, {**params, "path": show(given)}, on_progress)

    def _environment(self) -> Optional[dict[str, str]]:
        return None if self.store is None else {"SAILVOL_STORE": self.store}

    def _run_json(self, arguments: Sequence[Word], **options: Any) -> Any:
        return program.run_json(arguments, environment=self._environment(), **options)

    def _path(self, path: PathLike) -> str:
        given = path_bytes(path)
        if not given or b"\0" in given:
            raise UsageError(f"{path!r} is no path in a volume")
        return f"{self.name}:/{show(given.lstrip(b'/'))}"


def _read(parse: Callable[[Any], R], answer: Any) -> R:
    """What was answered; that it cannot be read is nobody's argument."""
    try:
        return parse(answer)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SailvolError(f"an answer of sailvol cannot be read: {error!r}") from error


def _is_below(path: bytes, directory: bytes) -> bool:
    return path == directory or path.startswith(directory.rstrip(b"/") + b"/")


def _seconds(timeout: float) -> int:
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool) or math.isnan(timeout) or timeout <= 0:
        raise UsageError(f"a timeout is more than 0 seconds, and not {timeout!r}")
    return max(1, int(min(timeout, SECONDS_MAX)))


def _message(message: str) -> str:
    """A text that a record can hold."""
    if not isinstance(message, str):
        raise UsageError(f"a message is a str, and not {type(message).__name__}")
    try:
        size = len(message.encode())
    except UnicodeEncodeError as error:
        raise UsageError(f"the message is no text: {error}", "it has to be valid Unicode") from error
    if size > MESSAGE_BYTES_MAX:
        raise UsageError(
            f"the message has {size} bytes: at most {MESSAGE_BYTES_MAX} fit into a record",
            "put long texts into a file of the volume",
        )
    return message


def _count(limit: int) -> int:
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise UsageError(f"a limit is a number from 0 on, and not {limit!r}")
    return limit


def _number(stash: Union[Stash, int]) -> int:
    return _count(stash.id if isinstance(stash, Stash) else stash)


@_ours
def mounts(*, runtime_dir: Optional[PathLike] = None) -> list[Volume]:
    """The volumes that are mounted on this machine."""
    return [Volume(m.volume, store=m.store, record=m) for m in control.mounts(runtime_dir)]


