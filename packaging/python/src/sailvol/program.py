"""The ``sailvol`` program, for what needs no mount: it has the store's credentials, formats and checks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any, Mapping, Optional, Sequence, Union

from .errors import ProgramMissing, SailvolError, UsageError, from_exit_code, from_failure, from_system

#: A word of a command line; text is written as UTF-8 whatever the locale is.
Word = Union[str, bytes]


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
    arguments: Sequence[Word],
    *,
    environment: Optional[Mapping[str, str]] = None,
    data: Optional[bytes] = None,
) -> bytes:
    """Runs the program with ``--json`` and gives what it printed.

    Raises:
        SailvolError: what the program said, as the class of its exit code.
        UsageError: the arguments cannot be handed to a program.
    """
    words = [_word(argument) for argument in arguments]
    program = find_program()
    try:
        done = subprocess.run(
            [program, "--json", *words],
            input=b"" if data is None else data,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if environment is None else {**os.environ, **environment},
            check=False,
        )
    except OSError as error:
        raise from_system(error) from error
    if done.returncode == 0:
        return done.stdout
    raise _failure(done.returncode, done.stderr.decode(errors="replace"))


def run_json(arguments: Sequence[Word], **options: Any) -> Any:
    """As :func:`run`, for commands that print one JSON value."""
    said = run(arguments, **options)
    try:
        return json.loads(said)
    except (ValueError, RecursionError) as error:
        raise SailvolError(f"sailvol gave an answer that cannot be read: {error}") from error


def _word(argument: Word) -> bytes:
    try:
        word = argument if isinstance(argument, bytes) else argument.encode("utf-8", "surrogateescape")
    except (AttributeError, UnicodeError) as error:
        raise UsageError(f"{argument!r} is no text: {error}") from error
    if b"\0" in word:
        raise UsageError(f"{argument!r} has a NUL in it, which no argument of a program may have")
    return word


def _failure(code: int, said: str) -> SailvolError:
    # Notes and progress may stand before the failure, which is the last line; who was killed has said nothing.
    for line in reversed(said.splitlines()):
        if line.startswith('{"error":'):
            try:
                return from_failure(json.loads(line)["error"])
            except (ValueError, KeyError, AttributeError):
                break
    return from_exit_code(code, said.strip() or f"sailvol ended with exit code {code}")
