"""``%sailvol`` for IPython and notebooks: commit, reload, status, diff, log, stashes.

The answer is shown as a small table and is the value of the line (``result = %sailvol commit``); a progress bar is
there while the operation runs. A failure stops the cell, as any error does, with its message instead of a traceback.
"""

from __future__ import annotations

import argparse
import html
import shlex
import sys
import time
from typing import Any, NoReturn, Optional

from .errors import UsageError
from .results import Progress, size_text
from .volume import Volume


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # In a notebook the process must not end.
        raise UsageError(message, self.format_usage().strip())

    def exit(self, status: int = 0, message: Optional[str] = None) -> NoReturn:
        raise _HelpShown


class _HelpShown(Exception):
    """``--help`` was asked for, and shown."""


def _parser() -> _Parser:
    parser = _Parser(prog="%sailvol", description="Act on the mount of the current directory, or of DIR.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)

    def command(name: str, text: str) -> _Parser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("dir", nargs="?", metavar="DIR", help="a directory in the mount")
        return made

    commit = command("commit", "Publish local changes as one record")
    commit.add_argument("-m", "--message", default="", help="text for the log")
    commit.add_argument("--dry-run", action="store_true", help="publish nothing")
    reload = command("reload", "Move to the newest record; local changes go to a stash")
    choice = reload.add_mutually_exclusive_group()
    choice.add_argument("--keep", action="store_true", help="put local changes on top")
    choice.add_argument("--if-clean", action="store_true", help="refuse when there are local changes")
    reload.add_argument("--to", type=int, metavar="N", help="this record; -1 is the one before the mount's")
    command("status", "Where the mount stands")
    diff = command("diff", "What a commit would publish")
    diff.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many paths")
    log = command("log", "The newest records")
    log.add_argument("-n", "--limit", type=int, default=20, metavar="N", help="at most so many")
    text = "Local changes that reloads set aside"
    stash = commands.add_parser("stash", help=text, description=text)
    actions = stash.add_subparsers(dest="action", required=False, parser_class=_Parser)
    for name, purpose in (("list", "List them"), ("restore", "Put one onto what is shown"), ("drop", "Delete one")):
        action = actions.add_parser(name, help=purpose, description=purpose)
        if name != "list":
            action.add_argument("id", type=int, metavar="N", help="number of the stash")
        action.add_argument("dir", nargs="?", metavar="DIR", help="a directory in the mount")
    return parser


def run(line: str) -> Any:
    """Does what a line says and gives the answer."""
    try:
        args = _parser().parse_args(shlex.split(line))
    except _HelpShown:
        return None
    except ValueError as error:
        raise UsageError(f"{line}: {error}") from error
    volume = Volume.from_mount(getattr(args, "dir", None))
    if args.command == "status":
        return volume.status()
    if args.command == "diff":
        return volume.diff(args.dir, limit=args.limit)
    if args.command == "log":
        return volume.log(limit=args.limit)
    if args.command == "stash":
        if args.action == "restore":
            return volume.restore_stash(args.id)
        if args.action == "drop":
            return volume.drop_stash(args.id)
        return volume.stashes()
    with ProgressBar() as bar:
        if args.command == "commit":
            return volume.commit(args.message, dry_run=args.dry_run, on_progress=bar.show)
        return volume.reload(keep=args.keep, if_clean=args.if_clean, to=args.to, on_progress=bar.show)


class ProgressBar:
    """A bar below the cell, or on standard error in a terminal; gone when the operation is done."""

    #: Characters of the bar in a terminal.
    WIDTH = 30

    def __init__(self) -> None:
        self._shown = False
        self._in_notebook = _in_notebook()
        self._pace = Pace()
        self._handle: Any = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._shown:
            return
        if self._in_notebook:
            self._handle.update(_Html("", ""))
        else:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def show(self, progress: Progress) -> None:
        """Shows how far it is."""
        text = ", ".join(part for part in (progress_text(progress), self._pace.text(progress)) if part)
        if not self._in_notebook:
            if sys.stderr.isatty():
                print(f"\r\x1b[K{text_bar(progress.fraction, self.WIDTH)} {text}", end="", file=sys.stderr, flush=True)
                self._shown = True
            return
        value = "" if progress.fraction is None else f" value='{progress.fraction:.3f}'"
        content = _Html(f"<progress max='1'{value}></progress> {html.escape(text)}", text)
        if self._shown:
            self._handle.update(content)
            return
        import IPython.display

        display: Any = IPython.display.display
        self._handle = display(content, display_id=True)
        self._shown = True


class _Html:
    """Something to display, with a plain form for front ends without HTML."""

    def __init__(self, text_html: str, text: str) -> None:
        self._html = text_html
        self._text = text

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return self._text


class Pace:
    """How fast an operation is, and how long the rest takes at that pace."""

    #: Seconds before there is anything to say.
    AFTER = 1.0

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._stage: Optional[str] = None
        self._first = 0

    def text(self, progress: Progress) -> str:
        """``2.0 MiB/s, 1m 5s left``; nothing yet at the beginning of a stage."""
        done, total = progress.done_bytes, progress.total_bytes
        now = time.monotonic()
        if progress.stage != self._stage:
            self._stage, self._began, self._first = progress.stage, now, done
        passed = now - self._began
        if not total or passed < self.AFTER or done <= self._first:
            return ""
        rate = (done - self._first) / passed
        left = int((total - done) / rate)
        minutes = f"{left // 60}m " if left >= 60 else ""
        return f"{size_text(int(rate))}/s, {minutes}{left % 60}s left"


def _in_notebook() -> bool:
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None


def progress_text(progress: Progress) -> str:
    """One line about how far an operation is."""
    parts = [progress.stage]
    if progress.total_bytes:
        parts.append(f"{size_text(progress.done_bytes)} of {size_text(progress.total_bytes)}")
    elif progress.total_files:
        parts.append(f"{progress.done_files} of {progress.total_files} files")
    if progress.sent_bytes:
        parts.append(f"{size_text(progress.sent_bytes)} sent")
    return ", ".join(part for part in parts if part)


def text_bar(fraction: Optional[float], width: int) -> str:
    """``[#####.....]``"""
    full = int((fraction or 0.0) * width)
    return f"[{'#' * full}{'.' * (width - full)}]"


def register(ipython: Any) -> None:
    """Adds the magic to a shell."""
    ipython.register_magic_function(run, magic_kind="line", magic_name="sailvol")
