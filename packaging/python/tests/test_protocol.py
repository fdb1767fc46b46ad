"""The control client against a socket that answers what a test says."""

from __future__ import annotations

import inspect
import json
import os
import socket
import threading
from pathlib import Path

import pytest

import sailvol
from sailvol import aio, control
from sailvol.magic import progress_text, text_bar
from sailvol.results import Change, CommitResult, Progress, Rows

HELLO = {"jsonrpc": "2.0", "method": "hello", "params": {"protocol": 1, "sailvol": "9.9", "pid": 1}}


class Daemon:
    """Says hello, then answers each request with the next of its lines."""

    def __init__(self, runtime: Path, hello: object, *answers: object) -> None:
        runtime.mkdir(parents=True, exist_ok=True)
        record = {"name": "m", "dir": "/no/such/m", "volume": "v", "store": "file:///s", "pid": 2**22, "socket": "/else/m.sock"}
        (runtime / "m.json").write_text(json.dumps(record))
        self.requests: list[dict] = []
        self._hello = hello
        self._answers = list(answers)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(runtime / "m.sock"))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            peer, _ = self._listener.accept()
            with peer:
                try:
                    self._answer(peer)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # A client that only looked whether somebody listens.

    def _answer(self, peer: socket.socket) -> None:
        peer.sendall(json.dumps(self._hello).encode() + b"\n")
        with peer.makefile("rb") as requests:
            for request in requests:
                self.requests.append(json.loads(request))
                if not self._answers:
                    return  # It breaks off instead of answering.
                for line in self._answers.pop(0):
                    peer.sendall(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")


def result(value: object) -> dict:
    return {"jsonrpc": "2.0", "id": 1, "result": value}


def error(kind: str) -> dict:
    failure = {"kind": kind, "message": "it failed", "hint": "do this"}
    return {"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "it failed", "data": failure}}


def test_a_daemon_of_another_container_is_found_beside_its_record(tmp_path):
    daemon = Daemon(tmp_path / "unit", HELLO, [result({"seq": 7, "record": "ab", "new in 2.0": 1})])
    volume = sailvol.Volume.from_mount("/no/such/m/below", runtime_dir=tmp_path)
    done = volume.commit("text", timeout=2.5)
    assert (done.record, done.id) == (7, "ab")
    assert daemon.requests[0]["method"] == "commit"
    assert daemon.requests[0]["params"] == {"message": "text", "dry_run": False, "no_wait": False, "timeout_secs": 2}


@pytest.mark.parametrize(
    ("kind", "cls"),
    [
        ("failed", sailvol.SailvolError),
        ("usage", sailvol.UsageError),
        ("refused", sailvol.Refused),
        ("no-access", sailvol.NoAccess),
        ("store-unreachable", sailvol.StoreUnreachable),
        ("outcome-unknown", sailvol.OutcomeUnknown),
        ("damaged", sailvol.DamagedData),
        ("a kind of the future", sailvol.SailvolError),
    ],
)
def test_every_kind_has_its_exception(tmp_path, kind, cls):
    Daemon(tmp_path, HELLO, [error(kind)])
    with pytest.raises(cls) as caught:
        sailvol.Volume.from_mount("/no/such/m", runtime_dir=tmp_path).status()
    assert type(caught.value) is cls
    assert (caught.value.message, caught.value.hint) == ("it failed", "do this")
    assert caught.value._render_traceback_() == [f"{cls.__name__}: it failed\n  do this"]


def test_progress_comes_before_the_answer(tmp_path):
    progress = {"jsonrpc": "2.0", "method": "progress", "params": {"stage": "uploading", "total_bytes": 8, "done_bytes": 2}}
    Daemon(tmp_path, HELLO, [progress, progress, result({})])
    seen: list[Progress] = []
    sailvol.Volume.from_mount("/no/such/m", runtime_dir=tmp_path).commit(on_progress=seen.append)
    assert [p.fraction for p in seen] == [0.25, 0.25]
    assert progress_text(seen[0]) == "uploading, 2 B of 8 B"


@pytest.mark.parametrize(
    "answers", [[[b"no json\n"]], [[b"[1]\n"]], [[b"x" * (control.LINE_BYTES_MAX + 2)]], []]
)
def test_an_answer_that_makes_no_sense_is_an_error(tmp_path, answers):
    Daemon(tmp_path, HELLO, *answers)
    with pytest.raises(sailvol.SailvolError):
        sailvol.Volume.from_mount("/no/such/m", runtime_dir=tmp_path).status()


def test_planted_files_are_neither_followed_nor_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "link.json").symlink_to("/dev/zero")
    (tmp_path / "dir.json").mkdir()
    (tmp_path / "none.json").write_text("[]")
    assert control.mounts(tmp_path) == []


def test_another_version_of_the_protocol_is_refused(tmp_path):
    Daemon(tmp_path, {**HELLO, "params": {"protocol": 2}})
    with pytest.raises(sailvol.SailvolError, match="protocol 2"):
        sailvol.Volume.from_mount("/no/such/m", runtime_dir=tmp_path).status()


def test_a_peer_that_is_not_heard_gets_the_reason(tmp_path):
    Daemon(tmp_path, {**error("no-access"), "id": None})
    with pytest.raises(sailvol.NoAccess, match="it failed"):
        sailvol.Volume.from_mount("/no/such/m", runtime_dir=tmp_path).status()


def test_tables_escape_what_others_named():
    rows = Rows([Change("/<b>", "added", size=5)], truncated=True)
    assert "<b>" not in rows._repr_html_() and "/&lt;b&gt;" in rows._repr_html_()
    assert str(rows) == "change  path  size\nadded   /<b>  5 B\n... and more"
    assert str(CommitResult()) == "committed  nothing to commit"


def test_coroutines_are_the_methods_of_the_plain_volume():
    def waiting(cls):
        members = {name for name in vars(cls) if not name.startswith("_")}
        return {name for name in members if callable(getattr(cls, name))}

    assert waiting(sailvol.Volume) == waiting(aio.Volume)
    for name in waiting(aio.Volume) - {"get"}:
        plain, coroutine = getattr(sailvol.Volume, name), getattr(aio.Volume, name)
        assert inspect.iscoroutinefunction(coroutine), name
        assert list(inspect.signature(coroutine).parameters) == list(inspect.signature(plain).parameters), name
        assert coroutine.__doc__ == plain.__doc__


def test_bars_are_as_long_as_they_say():
    assert text_bar(0.5, 4) == "[##..]"
    assert text_bar(None, 4) == "[....]"
    assert Progress(total_files=4, done_files=1).fraction == 0.25
    assert Progress().fraction is None
