"""The ``sailvol`` program, for what needs no mount: it has the store's credentials, formats and checks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any, Mapping, Optional, Sequence

from .errors import ProgramMissing, SailvolError, from_exit_code, from_failure


def find_program() -> str:
    """Path of the program: ``SAILVOL_PROGRAM``, else from the PATH.

    Raises:
        ProgramMissing: it is not there.
    """
    named = os.environ.get("SAILVOL_PROGRAM")
    found = shutil.which(named or "sailvol")
    if found is None:
        raise ProgramMissing(
            f"{named or 'sailvol'} is not installed here",
            "install the program, or set SAILVOL_PROGRAM to its path; commit, reload, status and the like need only "
            "the mount's control socket",
        )
    return found


def run(
    arguments: Sequence[str],
    *,
    environment: Optional[Mapping[str, str]] = None,
    data: Optional[bytes] = None,
) -> bytes:
    """Runs the program with ``--json`` and gives what it printed.

    Raises:
        SailvolError: what the program said, as the class of its exit code.
    """
    done = subprocess.run(
        [find_program(), "--json", *arguments],
        input=b"" if data is None else data,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=None if environment is None else {**os.environ, **environment},
        check=False,
    )
    if done.returncode == 0:
        return done.stdout
    raise _failure(done.returncode, done.stderr.decode(errors="replace"))


def run_json(arguments: Sequence[str], **options: Any) -> Any:
    """As :func:`run`, for commands that print one JSON value."""
    return json.loads(run(arguments, **options))


def _failure(code: int, said: str) -> SailvolError:
    # Notes and progress may stand before the failure, which is the last line; who was killed has said nothing.
    for line in reversed(said.splitlines()):
        if line.startswith('{"error":'):
            return from_failure(json.loads(line)["error"])
    return from_exit_code(code, said.strip() or f"sailvol ended with exit code {code}")
