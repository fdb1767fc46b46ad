"""The package on real mounts of a directory store."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
from pathlib import Path

import pytest

import sailvol
from sailvol import Volume, aio
from sailvol.results import Progress


def test_a_volume_is_minted_mounted_committed_and_reloaded(machine):
    first = Volume.get("demo", mint_if_missing=True).mount(machine.shared)
    other = machine.root / "other"
    other.mkdir()
    second = Volume.get("demo").mount(other)
    (machine.shared / "notes").mkdir()
    (machine.shared / "notes/a.txt").write_text("hello\n")

    assert {(c.change, c.path) for c in first.diff()} == {("added", "/notes/"), ("added", "/notes/a.txt")}
    dry = first.commit(dry_run=True)
    assert dry.dry_run and not dry and dry.changed == 2
    seen: list[Progress] = []
    done = first.commit("first", on_progress=seen.append)
    assert (done.record, done.files, done.bytes_changed) == (1, 1, 6)
    assert len(done.id) == 64 and done.bytes_sent > 0
    assert seen and all(p.stage for p in seen)
    assert not first.commit(), "there is nothing left to commit"

    assert second.status().head == 1 and second.status().base == 0
    moved = second.reload()
    assert (moved.came_from, moved.record, moved.id, moved.stash) == (0, 1, done.id, None)
    assert (other / "notes/a.txt").read_text() == "hello\n"
    assert [(e.record, e.id, e.message) for e in second.log(limit=1)] == [(1, done.id, "first")]
    assert {Path(v.mount_dir) for v in sailvol.mounts()} == {machine.shared, other}


def test_what_a_reload_does_with_local_changes(machine):
    volume = Volume.get("demo", mint_if_missing=True).mount(machine.shared)
    volume.put(b"theirs", "/theirs")
    (machine.shared / "mine").write_text("mine")
    with pytest.raises(sailvol.Refused):
        volume.reload(if_clean=True)
    kept = volume.reload(keep=True)
    assert kept.record == 1 and kept.kept == ("/mine",) and (machine.shared / "theirs").exists()
    set_aside = volume.reload(to=0)
    assert set_aside.stash is not None and not (machine.shared / "mine").exists()
    assert [s.id for s in volume.stashes()] == [set_aside.stash.id]
    volume.restore_stash(set_aside.stash)
    assert (machine.shared / "mine").read_text() == "mine"
    with pytest.raises(sailvol.UsageError):
        volume.reload(keep=True, if_clean=True)


def test_files_without_a_mount(machine, tmp_path):
    volume = Volume.get("demo", mint_if_missing=True)
    local = tmp_path / "-odd name"
    local.write_bytes(bytes(range(256)))
    assert volume.put(local, "/data/", message="a file").record == 1
    assert volume.put(b"bytes", "plain").record == 2
    with pytest.raises(sailvol.Refused):
        volume.put(b"again", "plain")
    assert volume.put(b"again", "plain", force=True).record == 3

    names = volume.listdir()
    assert [(e.name, e.kind) for e in names] == [("data", "directory"), ("plain", "file")]
    assert [e.path for e in volume.listdir("/", recursive=True)] == ["/data", "/plain", "/data/-odd name"]
    assert volume.listdir(limit=1).truncated
    assert volume.read_file("/data/-odd name") == bytes(range(256))
    got = volume.get("data", tmp_path / "copy")
    assert (got.files, got.bytes) == (1, 256)
    assert (tmp_path / "copy/-odd name").read_bytes() == local.read_bytes()
    removed = volume.remove("/data", recursive=True, message="gone")
    assert (removed.files, removed.dirs, removed.commit.record) == (1, 1, 4)
    assert [e.name for e in volume.listdir()] == ["plain"]
    with pytest.raises(sailvol.SailvolError, match="no such file"):
        volume.read_file("/data/x")
    volume.remove("/data", missing_ok=True)


def test_from_mount_finds_the_mount_around_the_current_directory(machine):
    Volume.get("demo", mint_if_missing=True).mount(machine.shared)
    deep = machine.shared / "a/b"
    deep.mkdir(parents=True)
    os.chdir(deep)
    found = Volume.from_mount()
    assert (found.name, found.mount_dir) == ("demo", str(machine.shared))
    assert found.commit("from inside").record == 1
    # It knows the store by itself: the files of the volume are reached without the environment.
    del os.environ["SAILVOL_STORE"]
    assert [e.path for e in found.listdir(recursive=True)] == ["/a", "/a/b"]
    with pytest.raises(sailvol.NotMounted, match="mounted: "):
        Volume.from_mount("/proc")


def test_a_with_block_unmounts_and_keeps_uncommitted_work(machine):
    with Volume.get("demo", mint_if_missing=True).mount(machine.shared) as volume:
        (machine.shared / "draft").write_text("x")
    assert volume.mount_dir is None and not os.path.ismount(machine.shared)
    with pytest.raises(sailvol.NotMounted):
        volume.commit()
    volume.mount(machine.shared, options=["--cache-size=1G"])
    assert (machine.shared / "draft").read_text() == "x"
    assert volume.unmount(commit=True, message="at last").committed == 1
    volume.mount(machine.shared, at=0)
    assert os.listdir(machine.shared) == [] and volume.status().read_only


def test_failures_are_exceptions_of_their_kind(machine, tmp_path):
    with pytest.raises(sailvol.SailvolError) as missing:
        Volume.get("no-such-volume")
    assert missing.value.hint and missing.value.exit_code == 8
    again = pickle.loads(pickle.dumps(missing.value))
    assert (again.message, again.hint) == (missing.value.message, missing.value.hint)
    with pytest.raises(sailvol.UsageError):
        Volume.get("//")
    volume = Volume.get("demo", mint_if_missing=True)
    (machine.shared / "in the way").touch()
    with pytest.raises(sailvol.Refused, match="not empty"):
        volume.mount(machine.shared)
    os.environ["SAILVOL_PROGRAM"] = "/no/such/program"
    try:
        with pytest.raises(sailvol.ProgramMissing):
            volume.listdir()
    finally:
        del os.environ["SAILVOL_PROGRAM"]


def test_a_killed_daemon_is_told_and_its_mount_can_be_made_again(machine):
    volume = Volume.get("demo", mint_if_missing=True).mount(machine.shared)
    (machine.shared / "kept").write_text("x")
    os.kill(volume.status().pid, signal.SIGKILL)
    with pytest.raises(sailvol.NotMounted):
        while True:
            # The kernel closes the socket when the process has gone.
            volume.status(ask_store=False)
    volume.mount(machine.shared)
    assert (machine.shared / "kept").read_text() == "x"


def test_the_same_with_coroutines(machine, tmp_path):
    async def work() -> None:
        async with await (await aio.Volume.get("demo", mint_if_missing=True)).mount(machine.shared) as volume:
            (machine.shared / "a").write_text("1")
            assert [c.path for c in await volume.diff()] == ["/a"]
            # Two at once: the daemon puts them one after the other.
            both = await asyncio.gather(volume.commit("one"), volume.commit("two"))
            assert sorted(r.record or 0 for r in both) == [0, 1]
            assert (await volume.status()).dirty == 0
            assert (await volume.get("/a", tmp_path / "b")).files == 1
            assert await volume.read_file("a") == b"1"
            assert (await volume.reload(if_clean=True)).record == 1
            assert (await (await aio.Volume.from_mount(machine.shared)).log())[0].message in ("one", "two")
        assert volume.mount_dir is None

    asyncio.run(work())


def test_what_is_missing_or_taken_is_what_the_language_calls_so(machine, tmp_path):
    with pytest.raises(FileNotFoundError) as missing:
        Volume.get("no-such-volume")
    assert isinstance(missing.value, sailvol.NotFound)
    volume = Volume.get("demo", mint_if_missing=True).mount(machine.shared)
    (machine.shared / "f").write_text("x")
    volume.commit()
    for call in (
        lambda: volume.read_file("/nothing"),
        lambda: volume.listdir("/nothing"),
        lambda: volume.get("/nothing", tmp_path),
        lambda: volume.remove("/nothing"),
        lambda: volume.put(tmp_path / "nothing", "/x"),
        lambda: volume.prefetch("/nothing"),
        lambda: volume.diff("/nothing"),
        lambda: volume.reload(to=99),
        lambda: volume.diff(from_record=99),
        lambda: volume.restore_stash(99),
        lambda: volume.drop_stash(99),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            call()
        assert isinstance(caught.value, sailvol.NotFound), caught.value
    for call in (lambda: volume.put(b"", "/f"), lambda: (tmp_path / "f").touch() or volume.get("/f", tmp_path)):
        with pytest.raises(FileExistsError) as taken:
            call()
        assert isinstance(taken.value, sailvol.AlreadyExists) and isinstance(taken.value, sailvol.Refused)


def test_names_that_are_no_text_come_and_go(machine, tmp_path):
    volume = Volume.get("demo", mint_if_missing=True).mount(machine.shared)
    names = [b"caf\xe9", b"new\nline", b"esc\x1b[31m", b"-rf", b"back\\slash", b"looks\\xe9", b"\xff\xfe", b"x" * 255, "\u00fc".encode()]
    for name in names:
        Path(os.fsdecode(os.path.join(os.fsencode(machine.shared), name))).write_bytes(name)
    assert {os.fsencode(c.path) for c in volume.diff()} == {b"/" + name for name in names}
    volume.commit()
    entries = volume.listdir()
    assert {os.fsencode(e.name) for e in entries} == set(names)
    for entry in entries:
        assert volume.read_file(entry.path) == os.fsencode(entry.name)
        assert volume.read_file(os.fsencode(entry.path)) == os.fsencode(entry.name)
        assert (machine.shared / entry.name).read_bytes() == os.fsencode(entry.name)
        volume.prefetch(entry.path)
        volume.prefetch(machine.shared / entry.name)
        assert volume.get(entry.path, tmp_path / "got").files == 1
        assert (tmp_path / "got").read_bytes() == os.fsencode(entry.name)
        volume.put(tmp_path / "got", entry.path, force=True)
        (tmp_path / "got").unlink()
    entries._repr_html_().encode()
    str(entries).encode()
    for entry in entries:
        assert volume.remove(entry.path).files == 1


def test_what_is_not_shown_yet_is_told(machine):
    first = Volume.get("demo", mint_if_missing=True).mount(machine.shared)
    other = machine.root / "other"
    other.mkdir()
    second = Volume.get("demo").mount(other)
    (machine.shared / "theirs").write_text("1")
    first.commit("the others")
    (other / "mine").write_text("1")
    assert second.commit().merged_with == (1,)
    status = second.status()
    assert status.unshown == sailvol.Unshown(record=2, shows=0, others=(1,))
    assert "record 2, yours, holds changes by others" in str(status)
    moved = second.reload()
    assert [r.record for r in moved.brought] == [1] and [c.path for c in moved.changes] == ["/theirs"]
    assert second.status().unshown is None
    assert second.reload(to=-1).record == 1


def test_both_forms_of_a_path(machine):
    volume = Volume.get("demo", mint_if_missing=True).mount(machine.shared)
    (machine.shared / "train").mkdir()
    (machine.shared / "train/a").write_text("x")
    (machine.shared / "b").write_text("x")
    for path in ("/train", "train", b"/train", machine.shared / "train", str(machine.shared / "train") + "/"):
        assert {c.path for c in volume.diff(path)} == {"/train/", "/train/a"}, path
        volume.prefetch(path)
    assert len(volume.diff(machine.shared)) == 3
    (machine.root / "link").symlink_to(machine.shared)
    assert [c.path for c in volume.diff(machine.root / "link/b")] == ["/b"]


def test_a_large_answer_of_a_commit_is_no_failure(machine):
    first = Volume.get("demo", mint_if_missing=True).mount(machine.shared)
    other = machine.root / "other"
    other.mkdir()
    second = Volume.get("demo").mount(other)
    for directory in (machine.shared, other):
        for n in range(3000):
            (directory / ("n" * 245 + str(n))).write_text(str(directory))
    first.commit()
    done = second.commit()
    assert done.record == 2 and len({o.path for o in done.overwrote}) == 3000
    assert len(second.reload().changes) <= 100


def test_an_interrupted_call_leaves_an_object_that_works(machine):
    volume = Volume.get("demo", mint_if_missing=True).mount(machine.shared)
    (machine.shared / "a").write_text("1")

    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        # Some progress comes before the answer, or none: then it is told here.
        volume.commit("interrupted", on_progress=interrupt)
        raise KeyboardInterrupt
    (machine.shared / "b").write_text("2")
    assert volume.commit("again").record in (1, 2)
    assert volume.status().dirty == 0
    assert {e.path for e in volume.listdir()} == {"/a", "/b"}
