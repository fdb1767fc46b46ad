"""What operations answer: frozen values. Fields that a newer daemon adds are ignored."""

from __future__ import annotations

import html
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from typing import Any, Iterable, Mapping, Optional, Sequence, TypeVar, Union, overload

from .names import show, unshow

T = TypeVar("T", bound="Result")


@dataclass(frozen=True)
class Result:
    """Base of all answers."""

    @classmethod
    def parse(cls: type[T], value: Mapping[str, Any]) -> T:
        """Takes the known fields of a JSON object."""
        known = {f.name for f in fields(cls)}
        return cls(**{name: item for name, item in value.items() if name in known})

    def _rows(self) -> list[tuple[str, str]]:
        """What a table for people shows."""
        return [(f.name.replace("_", " "), str(getattr(self, f.name))) for f in fields(self)]

    def _repr_html_(self) -> str:
        return html_table(self._rows())

    def __str__(self) -> str:
        rows = self._rows()
        width = max((len(name) for name, _ in rows), default=0)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))


class Rows(Sequence[T]):
    """Several answers: an immutable sequence that notebooks show as one table."""

    def __init__(self, items: Iterable[T], truncated: bool = False) -> None:
        self._items = tuple(items)
        #: There were more than asked for.
        self.truncated = truncated

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Rows[T]: ...
    def __getitem__(self, index: Union[int, slice]) -> Union[T, Rows[T]]:
        if isinstance(index, slice):
            return Rows(self._items[index], self.truncated)
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rows) and (self._items, self.truncated) == (other._items, other.truncated)

    def __hash__(self) -> int:
        return hash((self._items, self.truncated))

    def __repr__(self) -> str:
        return repr(list(self._items))

    def _lines(self) -> list[list[str]]:
        lines = [[name for name, _ in item._rows()] for item in self._items[:1]]
        lines += [[value for _, value in item._rows()] for item in self._items]
        return lines

    def __str__(self) -> str:
        lines = self._lines()
        if not lines:
            return "(none)"
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
        return "\n".join(text + (["... and more"] if self.truncated else []))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    def _repr_html_(self) -> str:
        lines = self._lines()
        if not lines:
            return "(none)"
        more = "<div>... and more</div>" if self.truncated else ""
        return html_table(lines[1:], lines[0]) + more


def _paths(value: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The members that are paths, as Python has them."""
    return {name: unshow(value[name]) for name in names if value.get(name) is not None}


def _count(number: int, one: str) -> str:
    return f"{number} {one}" if number == 1 else f"{number} {one}s"


def html_table(rows: Iterable[Iterable[str]], head: Optional[Iterable[str]] = None) -> str:
    """A small table; every cell is escaped, because paths and messages come from others."""

    def line(cells: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag} style='text-align:left'>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    top = "" if head is None else line(head, "th")
    return f"<table>{top}{''.join(line(row, 'td') for row in rows)}</table>"


def size_text(size: int) -> str:
    """Bytes for people, in powers of 1024."""
    number = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{size} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def time_text(seconds: int) -> str:
    """Seconds since 1970 as local time."""
    return datetime.fromtimestamp(seconds, timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M:%S")


@dataclass(frozen=True)
class Overwritten(Result):
    """A path where a commit put its own change over one that the mount had not seen."""

    path: str
    #: Content, mode, owner, mtime or an xattr.
    register: str
    came_from: Optional[str] = None

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Overwritten:
        return super().parse({**value, **_paths(value, "path", "came_from")})


#: Rows of a table that name paths.
ROWS_MAX = 100


def _overwrote(paths: Sequence[Overwritten], more: int) -> list[tuple[str, str]]:
    rows = [("overwrote", f"{show(item.path)}: {item.register}") for item in paths[:ROWS_MAX]]
    more += max(0, len(paths) - ROWS_MAX)
    return rows + ([("overwrote", f"... and {_count(more, 'more path')}")] if more else [])


@dataclass(frozen=True)
class CommitResult(Result):
    """What a commit published. False when there was nothing to publish."""

    #: Number of the record; None when there was nothing to publish, or for a dry run.
    record: Optional[int] = None
    #: Id of the record: its hash, in hexadecimal digits.
    id: Optional[str] = None
    dry_run: bool = False
    #: Names and inodes that changed.
    changed: int = 0
    #: Files whose bytes changed.
    files: int = 0
    #: Logical bytes of those files.
    bytes_changed: int = 0
    #: Bytes sent to the store.
    bytes_sent: int = 0
    #: Numbers of the records by others that it was merged with.
    merged_with: tuple[int, ...] = ()
    #: Paths where it overwrote a change by others that this mount had not seen.
    overwrote: tuple[Overwritten, ...] = ()
    #: So many more of them than an answer lists.
    overwrote_more: int = 0
    #: Files that some process could still write; the next commit brings the rest.
    still_written: tuple[str, ...] = ()
    #: Record of an interrupted commit that this one has finished first; the same as `record` without anything else to commit.
    settled: int | None = None
    seconds: float = 0.0
    #: The directory of the mount; empty when there was none.
    dir: str = ""

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> CommitResult:
        return super().parse(
            {
                **value,
                "record": value.get("seq"),
                "id": value.get("record"),
                "merged_with": tuple(value.get("merged_with", ())),
                "overwrote": tuple(Overwritten.parse(item) for item in value.get("overwrote", ())),
                "still_written": tuple(map(unshow, value.get("still_written", ()))),
                **_paths(value, "dir"),
            }
        )

    def __bool__(self) -> bool:
        return self.record is not None

    def _rows(self) -> list[tuple[str, str]]:
        if self.record is None and not self.dry_run:
            return [("committed", "nothing to commit")]
        first = ("would commit", self.dir and f"in {show(self.dir)}") if self.dry_run else ("committed", f"record {self.record} ({(self.id or '')[:12]})")
        if self.settled is not None and self.settled == self.record:
            return [first, ("interrupted", "this commit was, before; nothing else to commit")]
        files = f"of {_count(self.files, 'file')} the bytes ({size_text(self.bytes_changed)})"
        rows = [first, ("changes", f"{self.changed}, {files}")]
        if not self.dry_run:
            rows.append(("sent", f"{size_text(self.bytes_sent)} in {self.seconds:.1f} s"))
        if self.merged_with:
            rows.append(("merged with", ", ".join(map(str, self.merged_with)) + " by others (published, not shown here yet: reload)"))
        rows += _overwrote(self.overwrote, self.overwrote_more)
        rows += [("still written", show(path)) for path in self.still_written]
        return rows


@dataclass(frozen=True)
class Stash(Result):
    """Local changes that a reload set aside."""

    id: int
    #: Seconds since 1970.
    made_at: int
    #: The record that the changes were made on.
    base: int
    changed: int
    #: Bytes on local disk.
    bytes: int

    def _rows(self) -> list[tuple[str, str]]:
        return [
            ("stash", str(self.id)),
            ("made", time_text(self.made_at)),
            ("on record", str(self.base)),
            ("changes", str(self.changed)),
            ("size", size_text(self.bytes)),
        ]


@dataclass(frozen=True)
class ReloadResult(Result):
    """Where a reload moved the view."""

    #: Number of the record that the view stands on now.
    record: int
    #: Id of that record.
    id: str
    #: Number of the record that the view stood on before.
    came_from: int
    #: The stash that holds the local changes which left the view.
    stash: Optional[Stash] = None
    #: Local changes on top of the new base (with ``keep``, or files open for writing).
    kept: tuple[str, ...] = ()
    #: With ``keep``: paths where a local change was put over one by others.
    overwrote: tuple[Overwritten, ...] = ()
    #: So many more of them than an answer lists.
    overwrote_more: int = 0
    #: Records by others that are shown now and were not before, the newest first.
    brought: tuple[LogEntry, ...] = ()
    #: So many more of them.
    brought_more: int = 0
    #: Paths that look different now; some of them when there are many.
    changes: tuple[Change, ...] = ()
    #: The directory of the mount.
    dir: str = ""

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> ReloadResult:
        stash = value.get("stash")
        brought = value.get("brought", {})
        return super().parse(
            {
                "record": value["to"],
                "id": value["record"],
                "came_from": value["from"],
                "stash": None if stash is None else Stash.parse(stash),
                "kept": tuple(map(unshow, value.get("kept", ()))),
                "overwrote": tuple(Overwritten.parse(item) for item in value.get("overwrote", ())),
                "overwrote_more": value.get("overwrote_more", 0),
                "brought": tuple(LogEntry.parse(item) for item in brought.get("records", ())),
                "brought_more": brought.get("records_more", 0),
                "changes": tuple(Change.parse(item) for item in brought.get("changes", ())),
                "dir": unshow(value.get("dir", "")),
            }
        )

    def _rows(self) -> list[tuple[str, str]]:
        moved = f"was at {self.came_from}"
        if self.record == self.came_from:
            moved = "with what others changed" if self.brought or self.changes else "was shown already"
        rows = [("record", f"{self.record} ({self.id[:12]}), {moved}")]
        rows += [("brought", f"record {item.record} by {item.by}: {item.message}") for item in self.brought]
        if self.brought_more:
            rows.append(("brought", f"and {_count(self.brought_more, 'older record')}"))
        if self.stash is not None:
            rows.append(("set aside", f"{_count(self.stash.changed, 'local change')}, in stash {self.stash.id}"))
        rows += [("kept", show(path)) for path in self.kept]
        rows += _overwrote(self.overwrote, self.overwrote_more)
        return rows


@dataclass(frozen=True)
class Cache(Result):
    """Numbers about the local cache."""

    used_bytes: int = 0
    max_bytes: int = 0
    hits: int = 0
    misses: int = 0


@dataclass(frozen=True)
class Transfers(Result):
    """Numbers about requests to the store."""

    requests: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    errors: int = 0
    last_error: Optional[str] = None


@dataclass(frozen=True)
class Unshown(Result):
    """Changes by others that a commit of this mount was merged with: published, not shown here until a reload."""

    #: The record of this mount that holds them.
    record: int
    #: The newest record of which all is shown, as far as that is known.
    shows: Optional[int] = None
    #: The records by others that they came from, as far as they are known.
    others: tuple[int, ...] = ()

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Unshown:
        return super().parse({**value, "others": tuple(value.get("others", ()))})

    def __str__(self) -> str:
        shows = "" if self.shows is None else f"shows record {self.shows} and what you committed since; "
        others = ", ".join(map(str, self.others))
        source = f" ({'record' if len(self.others) == 1 else 'records'} {others})" if others else ""
        return f"{shows}record {self.record}, yours, holds changes by others{source}: reload shows them"


@dataclass(frozen=True)
class Status(Result):
    """The state of a mount at a glance."""

    volume: str
    volume_id: str
    #: The store, without secrets.
    store: str
    dir: str
    name: str
    pid: int
    version: str
    uptime_secs: int
    read_only: bool
    #: Number of the record that the view stands on.
    base: int
    #: Id of that record.
    base_record: str
    #: The newest record that is known.
    head: Optional[int]
    #: Seconds since the store was last asked for it.
    head_age_secs: Optional[int]
    #: Why the store could not be asked now.
    head_error: Optional[str]
    #: Names and inodes that differ from the base.
    dirty: int
    #: Bytes of dirty files on local disk.
    dirty_bytes: int
    stashes: int
    #: A commit or reload that runs now.
    busy: Optional[str]
    cache: Cache
    transfers: Transfers
    passthrough: str
    warnings: tuple[str, ...]
    #: Published by this mount and not shown in it yet.
    unshown: Optional[Unshown] = None

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Status:
        return super().parse(
            {
                **value,
                "cache": Cache.parse(value["cache"]),
                "transfers": Transfers.parse(value["transfers"]),
                "warnings": tuple(value["warnings"]),
                "unshown": None if value.get("unshown") is None else Unshown.parse(value["unshown"]),
                **_paths(value, "dir"),
            }
        )

    def _rows(self) -> list[tuple[str, str]]:
        if self.head is None:
            head = "the newest is not known"
        elif self.head > self.base:
            head = f"{self.head - self.base} behind the newest, {self.head}"
        else:
            head = "the newest"
        if self.head_error:
            head += f" ({self.head_error})"
        mode = ", read-only" if self.read_only else ""
        rows = [
            ("mount", show(self.dir) + mode),
            ("volume", f"{self.volume} in {self.store}"),
            ("base", f"record {self.base} ({self.base_record[:12]}), {head}"),
            (
                "uncommitted",
                f"{_count(self.dirty, 'change')}, {size_text(self.dirty_bytes)}" if self.dirty else "none",
            ),
            ("cache", f"{size_text(self.cache.used_bytes)} of {size_text(self.cache.max_bytes)}"),
        ]
        if self.unshown is not None:
            rows.append(("not shown yet", str(self.unshown)))
        if self.stashes:
            rows.append(("stashes", str(self.stashes)))
        if self.busy:
            rows.append(("running", self.busy))
        if self.transfers.last_error:
            rows.append(("last error", self.transfers.last_error))
        return rows + [("warning", text) for text in self.warnings]


@dataclass(frozen=True)
class Change(Result):
    """One path that differs."""

    #: Directories end in ``/``.
    path: str
    #: ``added``, ``modified``, ``attributes``, ``removed`` or ``moved``.
    change: str
    came_from: Optional[str] = None
    #: Bytes now, for files.
    size: Optional[int] = None

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Change:
        return super().parse({**value, **_paths(value, "path", "came_from")})

    def _rows(self) -> list[tuple[str, str]]:
        return [
            ("change", self.change),
            ("path", show(self.path) if self.came_from is None else f"{show(self.path)} (was {show(self.came_from)})"),
            ("size", "" if self.size is None else size_text(self.size)),
        ]


@dataclass(frozen=True)
class LogEntry(Result):
    """One record of the volume's log."""

    #: Its number.
    record: int
    #: Its id.
    id: str
    kind: str
    #: Seconds since 1970.
    time: int
    by: str
    message: str
    #: Files in the volume then.
    files: int
    #: Logical bytes in the volume then.
    bytes: int

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> LogEntry:
        return super().parse({**value, "record": value["seq"], "id": value["record"]})

    def _rows(self) -> list[tuple[str, str]]:
        return [
            ("record", str(self.record)),
            ("id", self.id[:12]),
            ("time", time_text(self.time)),
            ("by", self.by),
            ("message", self.message),
            ("files", str(self.files)),
            ("size", size_text(self.bytes)),
        ]


@dataclass(frozen=True)
class FileEntry(Result):
    """One name in a volume."""

    #: From the root of the volume.
    path: str
    #: ``file``, ``directory``, ``symlink``, ``fifo``, ``socket``, ``char-device`` or ``block-device``.
    kind: str
    size: int
    #: As ``ls -l`` shows it.
    mode: str
    uid: int
    gid: int
    #: Seconds since 1970.
    mtime: int
    #: Where a symbolic link points.
    target: Optional[str] = None

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> FileEntry:
        return super().parse({**value, **_paths(value, "path", "target")})

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[-1]

    def _rows(self) -> list[tuple[str, str]]:
        arrow = "" if self.target is None else f" -> {show(self.target)}"
        return [
            ("mode", self.mode),
            ("size", size_text(self.size)),
            ("changed", time_text(self.mtime)),
            ("path", show(self.path) + arrow),
        ]


@dataclass(frozen=True)
class GetResult(Result):
    """What was copied to this machine."""

    to: str
    files: int
    dirs: int
    bytes: int
    seconds: float

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> GetResult:
        return super().parse({**value, **_paths(value, "to")})


@dataclass(frozen=True)
class Removed(Result):
    """What was removed, and the record without it."""

    files: int
    dirs: int
    commit: CommitResult

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Removed:
        return cls(value["removed_files"], value["removed_dirs"], CommitResult.parse(value))


@dataclass(frozen=True)
class UnmountResult(Result):
    """What an unmount left."""

    #: Number of the record that its commit published.
    committed: Optional[int] = None
    #: Names and inodes that stay uncommitted in the state directory.
    dirty: int = 0
    #: The directory that keeps them.
    state_dir: str = ""
    #: The directory that was mounted.
    dir: str = ""

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> UnmountResult:
        return super().parse({**value, **_paths(value, "dir")})


@dataclass(frozen=True)
class Progress(Result):
    """How far a running operation is."""

    #: ``scanning``, ``uploading``, ``publishing``, ``fetching``, ...
    stage: str = ""
    done_files: int = 0
    #: 0 when not known.
    total_files: int = 0
    done_bytes: int = 0
    #: 0 when not known.
    total_bytes: int = 0
    sent_bytes: int = 0

    @property
    def fraction(self) -> Optional[float]:
        """From 0 to 1; None when nobody knows how much it is in all."""
        for done, total in ((self.done_bytes, self.total_bytes), (self.done_files, self.total_files)):
            if total > 0:
                return min(done / total, 1.0)
        return None
