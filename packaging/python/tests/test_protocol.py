"""The control client against a socket that answers what a test says."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import random
import socket
import threading
from pathlib import Path

import pytest

import sailvol
from sailvol import aio, control, errors
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
        ("not-found", sailvol.NotFound),
        ("exists", sailvol.AlreadyExists),
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
    "answers", [[[b"no json\n"]], [[b"[1]\n"]], [[b"{\n"]], []]
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


def sizes() -> list[int]:
    """Sizes on both sides of every limit that an answer had or has."""
    seed = random.randrange(2**32)
    print("seed", seed)
    generator = random.Random(seed)
    limits = [64 << 10, 1 << 20, 8 << 20]
    near = [limit + generator.randint(-300, 300) for limit in limits for _ in range(4)]
    return [*(limit + step for limit in limits for step in (-1, 0, 1)), *near, *(generator.randrange(3 << 20) for _ in range(6))]


def test_answers_of_every_size_are_read(tmp_path):
    asked = sizes()
    answers = [[result({"seq": 1, "record": "ab", "overwrote": [{"path": "/" + "p" * size, "register": "content"}]})] for size in asked]
    # A connection for each call: the daemon answers each with the next line.
    Daemon(tmp_path, HELLO, *answers)
    volume = sailvol.Volume.from_mount("/no/such/m", runtime_dir=tmp_path)
    for size in asked:
        assert len(volume.commit().overwrote[0].path) == size + 1


def test_requests_of_every_size_are_sent_or_refused_as_wrong(tmp_path):
    asked = sizes()
    daemon = Daemon(tmp_path, HELLO, *([[result({"seq": 1, "record": "ab"})]] * len(asked)))
    volume = sailvol.Volume.from_mount("/no/such/m", runtime_dir=tmp_path)
    for size in asked:
        if size <= 64 << 10:
            assert volume.commit("m" * size).record == 1
            assert len(daemon.requests[-1]["params"]["message"]) == size
        else:
            with pytest.raises(sailvol.UsageError, match="at most 65536"):
                volume.commit("m" * size)
        if size > 1 << 20:
            with pytest.raises(sailvol.UsageError, match="1 MiB"):
                volume.prefetch("/" + "p" * size)


def test_a_daemon_that_refuses_while_it_is_sent_to_is_heard(tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "m.sock"))
    listener.listen()

    def hang_up() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.sendall(json.dumps(HELLO).encode() + b"\n")
            peer.sendall(json.dumps({**error("usage"), "id": None}).encode() + b"\n")
            peer.recv(1)

    threading.Thread(target=hang_up, daemon=True).start()
    with control.Connection(str(tmp_path / "m.sock")) as connection:
        with pytest.raises(sailvol.UsageError, match="it failed"):
            connection.call("commit", {"message": "m" * 900_000})


#: Kind, class, exit code, and the class of the language that it is as well.
KINDS = [
    ("failed", sailvol.SailvolError, 1, None),
    ("usage", sailvol.UsageError, 2, None),
    ("refused", sailvol.Refused, 3, None),
    ("no-access", sailvol.NoAccess, 4, PermissionError),
    ("store-unreachable", sailvol.StoreUnreachable, 5, None),
    ("outcome-unknown", sailvol.OutcomeUnknown, 6, None),
    ("damaged", sailvol.DamagedData, 7, None),
    ("not-found", sailvol.NotFound, 8, FileNotFoundError),
    ("exists", sailvol.AlreadyExists, 9, FileExistsError),
]


@pytest.mark.parametrize(("kind", "cls", "code", "also"), KINDS)
def test_each_kind_is_one_exit_code_and_what_the_language_has_for_it(kind, cls, code, also):
    made = errors.from_failure({"kind": kind, "message": "no", "hint": "do this"})
    assert type(made) is cls and made.exit_code == code and made.kind == kind
    assert type(errors.from_exit_code(code, "no")) is cls
    assert isinstance(made, OSError) == (also is not None)
    assert also is None or (isinstance(made, also) and made.errno and made.strerror == "no")
    again = pickle.loads(pickle.dumps(made))
    assert (type(again), again.message, again.hint, str(again)) == (cls, "no", "do this", "no\n  do this")


NONSENSE = [None, 1.5, float("nan"), float("inf"), -1, 2**70, "x", "caf\udce9", "\ud800", "a\0b", b"\xff", object(), [], {1: 2}, True]


def test_whatever_is_handed_over_the_failure_is_ours(tmp_path):
    """Every argument of every method, with values of every wrong kind."""
    answer = [result({"seq": None, "changes": [], "truncated": False})]
    Daemon(tmp_path, HELLO, *([answer] * 2000))
    os.environ["SAILVOL_PROGRAM"] = "/bin/false"
    try:
        volume = sailvol.Volume.from_mount("/no/such/m", runtime_dir=tmp_path)
        tried = 0
        for name in dir(sailvol.Volume):
            # `get` of an object is this; a mount of nonsense would look for a mount that is none.
            if name.startswith("_") and name != "_get_files" or name in ("get", "mount_dir", "unmount"):
                continue
            method = getattr(volume, name)
            parameters = inspect.signature(method).parameters
            given = {p.name: "/x" for p in parameters.values() if p.default is p.empty}
            for parameter in parameters:
                for value in NONSENSE:
                    tried += 1
                    try:
                        method(**{**given, parameter: value})
                    except sailvol.SailvolError:
                        pass
                    except TypeError as raised:
                        # Only of what is called with a progress.
                        raise AssertionError(f"{name}({parameter}={value!r}): {raised!r}") from raised
        assert tried > 300
    finally:
        del os.environ["SAILVOL_PROGRAM"]


@pytest.mark.parametrize("said", [{}, [], 7, None, {"changes": 1}, {"changes": [{}]}, {"seq": [], "overwrote": 3}, {"to": 1}])
def test_an_answer_of_the_wrong_form_is_not_the_callers_fault(tmp_path, said):
    Daemon(tmp_path, HELLO, *([[result(said)]] * 10))
    volume = sailvol.Volume.from_mount("/no/such/m", runtime_dir=tmp_path)
    for method in (volume.status, volume.diff, volume.reload):
        with pytest.raises(sailvol.SailvolError) as caught:
            method()
        assert not isinstance(caught.value, sailvol.UsageError)


def test_what_a_callers_own_function_raises_stays_as_it_is(tmp_path):
    progress = {"jsonrpc": "2.0", "method": "progress", "params": {"stage": "uploading"}}
    Daemon(tmp_path, HELLO, [progress, result({})], [result({"seq": 3, "record": "ab"})])
    volume = sailvol.Volume.from_mount("/no/such/m", runtime_dir=tmp_path)

    def stop(_: Progress) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        volume.commit(on_progress=stop)
    assert volume.commit().record == 3, "the object can be used on"
    with pytest.raises(TypeError):
        volume.commit(messsage="a mistake in the program")


def test_names_are_shown_and_come_back():
    for path, shown in [
        ("caf\udce9", "caf\\xe9"),
        ("new\nline", "new\\x0aline"),
        ("back\\slash", "back\\slash"),
        ("a\\xffb", "a\\x5cxffb"),
        ("\u00fc\u202e", "\u00fc\\xe2\\x80\\xae"),
    ]:
        assert sailvol.show(path) == shown and sailvol.unshow(shown) == path
    generator = random.Random(8)
    for _ in range(2000):
        pieces = [generator.choice([b"\\", b"\\x", b"ff", b"x", "\u2028".encode(), bytes([generator.randrange(256)])]) for _ in range(8)]
        name = b"".join(pieces)
        shown = sailvol.show(name)
        assert os.fsencode(sailvol.unshow(shown)) == name, name
        shown.encode()
