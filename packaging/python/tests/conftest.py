"""A machine for each test: the real program, a directory store, a mount point; nothing is left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Iterator

import pytest

def built_program() -> str:
    """The program to test: ``SAILVOL_PROGRAM``, or the installed one."""
    path = os.environ.get("SAILVOL_PROGRAM") or shutil.which("sailvol")
    if not path or not Path(path).exists():
        pytest.exit("no sailvol program: build it (cargo build), or name it with SAILVOL_PROGRAM", returncode=2)
    return path


class Machine:
    """Directories and an environment that point the program and the package to them."""

    def __init__(self, root: Path, program: str) -> None:
        self.root = root
        self.shared = root / "shared"
        self.shared.mkdir()
        # As installed: under its own name, on the PATH.
        programs = root / "bin"
        programs.mkdir()
        (programs / "sailvol").symlink_to(program)
        self.environment = {
            "SAILVOL_STORE": f"file://{root}/store",
            "SAILVOL_STATE_DIR": str(root / "state"),
            "SAILVOL_CACHE_DIR": str(root / "cache"),
            "SAILVOL_RUNTIME_DIR": str(root / "run"),
            "PATH": f"{programs}:{os.environ['PATH']}",
        }

    def unmount_all(self) -> None:
        # Names of other mounts on the machine may be no text.
        with open("/proc/self/mountinfo", errors="surrogateescape") as mountinfo:
            mounted = [line.split()[4] for line in mountinfo if f" {self.root}/" in line]
        for directory in reversed(mounted):
            subprocess.run(["sailvol", "umount", "--force", directory], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(tmp_path, built_program())
    monkeypatch.delenv("SAILVOL_PROGRAM", raising=False)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    yield made
    os.chdir("/")
    made.unmount_all()
