"""What a type checker makes of the installed package: checked by ``tests/run --check``, never run.

Each line is wrong for the checker if the package is not seen as typed, or an answer is not the type that is said here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Optional

from typing_extensions import assert_type

import sailvol
from sailvol import Volume, aio
from sailvol.results import Change, CommitResult, FileEntry, GetResult, LogEntry, ReloadResult, Removed, Rows, Status


def plain(progress: Callable[[sailvol.Progress], None]) -> None:
    volume = Volume.get("name", mint_if_missing=True)
    assert_type(volume, Volume)
    assert_type(volume.mount(Path("/m"), options=["--read-only"]), Volume)
    assert_type(volume.commit("text", on_progress=progress), CommitResult)
    assert_type(volume.commit().record, Optional[int])
    assert_type(volume.reload(keep=True), ReloadResult)
    assert_type(volume.status(), Status)
    assert_type(volume.diff(), Rows[Change])
    assert_type(volume.diff()[0], Change)
    assert_type(volume.diff()[1:], Rows[Change])
    assert_type([entry.message for entry in volume.log()], "list[str]")
    assert_type(volume.listdir("/"), Rows[FileEntry])
    assert_type(volume.read_file("/f"), bytes)
    assert_type(volume.put(b"x", "/f"), CommitResult)
    assert_type(volume.get("/f", "local", force=True), GetResult)
    assert_type(volume.remove("/f"), Removed)
    volume.commit(messsage="a word that is wrong")  # type: ignore[call-arg]
    volume.get(1)  # type: ignore[arg-type]


async def coroutines(progress: Callable[[sailvol.Progress], None]) -> None:
    volume = await aio.Volume.get("name", mint_if_missing=True)
    assert_type(volume, aio.Volume)
    assert_type(await aio.Volume.from_mount("/m"), aio.Volume)
    assert_type(await volume.mount(Path("/m"), options=["--read-only"]), aio.Volume)
    assert_type(await volume.commit("text", on_progress=progress), CommitResult)
    assert_type(await volume.reload(if_clean=True), ReloadResult)
    assert_type(await volume.status(ask_store=False), Status)
    assert_type(await volume.log(limit=1), Rows[LogEntry])
    assert_type(await volume.listdir(), Rows[FileEntry])
    assert_type(await volume.read_file("/f"), bytes)
    assert_type(await volume.get("/f"), GetResult)
    assert_type(await volume.remove("/f", recursive=True), Removed)
    await volume.commit(messsage="a word that is wrong")  # type: ignore[call-arg]
    await volume.get(1)  # type: ignore[arg-type]
