"""The client side of a mount's control socket, and how to find the socket.

Operations on a mount speak the socket (``src/control/PROTOCOL.md``) rather than run the program: the socket is the
versioned interface, it tells progress, the kernel vouches for the caller, and it works in a container that shares
only the runtime directory with the sidecar that mounts: no sailvol program, no credentials, no /dev/fuse there.
"""

from __future__ import annotations

import json
import os
import select
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Collection, Iterator, Mapping, Optional

from .errors import CallbackFailed, NotMounted, SailvolError, UsageError, from_failure
from .names import AnyPath, path_bytes, unshow
from .results import Progress

#: The version of the protocol that this client speaks.
PROTOCOL = 1
#: Longest line of a request, bytes.
REQUEST_BYTES_MAX = 1 << 20
#: Longest line of an answer, bytes: many times what lists of paths may take. Whoever sends more is no daemon.
ANSWER_BYTES_MAX = 1 << 30
#: Longest greeting, bytes.
HELLO_BYTES_MAX = 64 << 10
#: Longest file beside a socket, bytes.
RECORD_BYTES_MAX = 64 << 10
#: Seconds for a daemon to accept and say hello.
HELLO_SECONDS = 10.0
#: Longest path in a socket address, bytes (unix(7)).
ADDRESS_BYTES_MAX = 107
#: Symbolic links that are followed in one path (path_resolution(7)).
LINKS_MAX = 40

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class MountRecord:
    """What the file beside a socket says."""

    name: str
    dir: str
    volume: str
    store: str
    pid: int
    socket: str


class Connection:
    """A connection to the daemon of one mount."""

    def __init__(self, path: str) -> None:
        """Connects and reads the greeting.

        Raises:
            NotMounted: no daemon listens there.
            NoAccess: this user may not control the mount.
        """
        self._path = path
        self._last_id = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(HELLO_SECONDS)
        try:
            _connect(self._socket, path)
            self._file = self._socket.makefile("rb")
            hello = self._read(HELLO_BYTES_MAX)
            self._socket.settimeout(None)
        except OSError as error:
            self._socket.close()
            raise self._gone(str(error)) from error
        except BaseException:
            self._socket.close()
            raise
        if "error" in hello:
            self.close()
            raise _failure(hello["error"])
        #: What the daemon said of itself.
        self.hello: Mapping[str, Any] = _mapping(hello.get("params", {}))
        if self.hello.get("protocol") != PROTOCOL:
            self.close()
            raise SailvolError(
                f"the mount's daemon speaks protocol {self.hello.get('protocol')}, this package {PROTOCOL}",
                "install the sailvol package of the daemon's version",
            )

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection. A commit or reload that has begun goes on."""
        self._file.close()
        self._socket.close()

    def call(self, method: str, params: Mapping[str, Any], on_progress: Optional[OnProgress] = None) -> Any:
        """Asks, hands progress to ``on_progress``, and waits for the answer.

        There is no time limit here: the daemon ends by the limits in the request.

        Raises:
            UsageError: the request cannot be written, or is too long.
            NotMounted: the daemon has gone.
            SailvolError: what it said; the class tells the kind.
        """
        self._last_id += 1
        request = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}
        try:
            text = json.dumps(request, allow_nan=False, ensure_ascii=False).encode() + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"{method}: invalid argument: {error}") from error
        if len(text) > REQUEST_BYTES_MAX:
            raise UsageError(
                f"the request takes {len(text)} bytes, and at most {REQUEST_BYTES_MAX} (1 MiB) are taken",
                "a message or path is too long",
            )
        try:
            self._socket.sendall(text)
        except OSError as error:
            # A daemon that hangs up may have said why.
            try:
                return self._await_answer(None)
            except NotMounted:
                raise self._gone(str(error)) from error
            except SailvolError:
                raise
            except OSError:
                raise self._gone(str(error)) from error
        try:
            return self._await_answer(on_progress)
        except SailvolError:
            raise
        except OSError as error:
            raise self._gone(str(error)) from error

    def _await_answer(self, on_progress: Optional[OnProgress]) -> Any:
        while True:
            line = self._read(ANSWER_BYTES_MAX)
            if line.get("method") == "progress":
                if on_progress is not None:
                    _tell(on_progress, line)
            elif "error" in line:
                raise _failure(line["error"])
            elif line.get("id") == self._last_id:
                return line.get("result")

    def wait_for_end(self, seconds: float) -> None:
        """Waits until the daemon's process has ended, where it can be seen from here."""
        try:
            credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            process = os.pidfd_open(struct.unpack("3i", credentials)[0])
        except (OSError, AttributeError):
            # In another container, gone already, or a Python built without pidfd: nothing to wait for.
            return
        try:
            select.select([process], [], [], seconds)
        finally:
            os.close(process)

    def _read(self, bytes_max: int) -> dict[str, Any]:
        text = self._file.readline(bytes_max + 1)
        if not text.endswith(b"\n"):
            if len(text) > bytes_max:
                raise SailvolError(f"the mount's daemon gave an answer of more than {bytes_max} bytes")
            raise self._gone("it closed the connection before it answered")
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SailvolError(f"the mount's daemon gave an answer that cannot be read: {error}") from error
        if not isinstance(line, dict):
            raise SailvolError("the mount's daemon gave an answer that cannot be read")
        return line

    def _gone(self, reason: str) -> NotMounted:
        return NotMounted(f"{self._path}: the mount's daemon does not answer: {reason}")


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise SailvolError("the mount's daemon gave an answer that cannot be read")
    return value


def _tell(on_progress: OnProgress, line: Mapping[str, Any]) -> None:
    progress = Progress.parse(_mapping(line.get("params", {})))
    try:
        on_progress(progress)
    except Exception as error:
        # The caller's own: it ends the waiting, and leaves as it is.
        raise CallbackFailed(error) from error


def _failure(said: object) -> SailvolError:
    error = _mapping(said)
    data = error.get("data")
    return from_failure(data if isinstance(data, dict) else {"message": error.get("message", "failed")})


def runtime_dirs(named: Optional[AnyPath] = None) -> list[Path]:
    """Directories in which sockets may be: the named one, else the program's default of this user; and root's."""
    own = os.fsdecode(path_bytes(named)) if named else os.environ.get("SAILVOL_RUNTIME_DIR")
    if not own:
        xdg = os.environ.get("XDG_RUNTIME_DIR")
        if os.geteuid() == 0:
            own = "/run/sailvol"
        elif xdg and os.path.isabs(xdg):
            own = os.path.join(xdg, "sailvol")
        else:
            own = f"/tmp/sailvol-{os.getuid()}"
    found = [Path(own)]
    if Path("/run/sailvol") not in found:
        found.append(Path("/run/sailvol"))
    return found


def mounts(runtime_dir: Optional[AnyPath] = None) -> list[MountRecord]:
    """The mounts whose daemon listens, sorted by directory."""
    found: dict[tuple[str, int], MountRecord] = {}
    for runtime in runtime_dirs(runtime_dir):
        for path in _record_files(runtime):
            record = _read_record(path)
            if record is not None and _listens(record.socket):
                found.setdefault((record.dir, record.pid), record)
    return sorted(found.values(), key=lambda record: record.dir)


def _record_files(runtime: Path) -> Iterator[Path]:
    # systemd units have a directory of their own in there.
    yield from sorted(runtime.glob("*.json"))
    yield from sorted(runtime.glob("*/*.json"))


def _read_record(path: Path) -> Optional[MountRecord]:
    try:
        # Others may be able to put files there: wait for none (a named pipe), follow no link, read no more than a record has.
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            value = json.loads(file.read(RECORD_BYTES_MAX))
        # The socket is beside the file, whatever path the daemon's container sees.
        beside = path.with_name(os.path.basename(unshow(value["socket"])))
        return MountRecord(
            value["name"], unshow(value["dir"]), value["volume"], value["store"], int(value["pid"]), str(beside)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # Not a record, or one that is just being removed.
        return None


def _connect(peer: socket.socket, path: str) -> None:
    if len(os.fsencode(path)) <= ADDRESS_BYTES_MAX:
        peer.connect(path)
        return
    # Too long for a socket address: through a descriptor of its directory.
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
    try:
        peer.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    finally:
        os.close(directory)


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(HELLO_SECONDS)
        try:
            _connect(probe, path)
        except OSError:
            return False
    return True


def resolved_path(path: os.PathLike[str] | str, mount_dirs: Collection[str]) -> Path:
    """The path without symbolic links and dots, as far as that can be told without asking a mount anything.

    At the directory of a mount, which may not answer, it ends; what follows is taken as it is written.
    """
    absolute = Path(path) if os.path.isabs(path) else Path.cwd() / path
    waiting = list(absolute.parts[:0:-1])
    done = Path("/")
    inside = False
    links = 0
    while waiting:
        part = waiting.pop()
        if part == "..":
            done = done.parent
            inside = any(str(above) in mount_dirs for above in (done, *done.parents))
            continue
        following = done / part
        inside = inside or str(following) in mount_dirs
        target = None
        if not inside and links < LINKS_MAX:
            try:
                target = os.readlink(following)
            except OSError:
                target = None
        if target is None:
            done = following
            continue
        links += 1
        if os.path.isabs(target):
            done = Path("/")
        waiting.extend(part for part in reversed(Path(target).parts) if part != "/")
    return done


def find_mount(
    directory: Optional[AnyPath] = None, runtime_dir: Optional[AnyPath] = None
) -> MountRecord:
    """The mount that contains ``directory`` (by default the current one, or the only mount there is).

    Paths are compared, the mount is not touched: one whose daemon hangs is found too.

    Raises:
        NotMounted: there is none.
    """
    known = mounts(runtime_dir)
    names = ", ".join(record.dir for record in known)

    def containing(path: Path) -> Optional[MountRecord]:
        around = [m for m in known if path == Path(m.dir) or Path(m.dir) in path.parents]
        return max(around, key=lambda m: len(m.dir), default=None)

    if directory is not None:
        clean = resolved_path(os.fsdecode(path_bytes(directory)), {record.dir for record in known})
        found = containing(clean)
        if found is None:
            raise NotMounted(f"{clean} is not in a sailvol mount; mounted: {names or 'nothing'}")
        return found
    try:
        found = containing(Path.cwd())
    except OSError:
        # It was removed, or must not be looked at.
        found = None
    if found is not None:
        return found
    if len(known) == 1:
        return known[0]
    if not known:
        raise NotMounted("nothing is mounted; name a directory, or mount a volume first")
    raise NotMounted(f"name one of {names}, or change into it")
