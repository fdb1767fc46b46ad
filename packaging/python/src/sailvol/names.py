r"""Names of files as the program and the control protocol write them, and as Python has them.

A name is any bytes. JSON holds text, so there each byte that is no UTF-8, and each byte of a control character, stands as
``\xNN`` (and a backslash in front of what would look like that as ``\x5c``): from what is written the bytes come back
exactly. In Python a name is a ``str`` as :mod:`os` has it, with the error handler ``surrogateescape``: it can be opened,
joined with a mount's directory, and handed back to every method of this package.
"""

from __future__ import annotations

import os
import re
from typing import Union

from .errors import UsageError

#: What names a file: as :func:`open` takes it.
AnyPath = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]

_ESCAPE = re.compile(rb"\\x([0-9a-fA-F]{2})")
# What is never written as it is: controls, ends of lines, overrides of the writing direction, bytes that are no UTF-8.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufdd0-\ufdef\udc80-\udcff]|\\\\(?=x[0-9a-fA-F]{2})"
)


def path_bytes(path: AnyPath) -> bytes:
    """The bytes of a path.

    Raises:
        UsageError: it is no path.
    """
    try:
        given = os.fspath(path)
        return given if isinstance(given, bytes) else given.encode("utf-8", "surrogateescape")
    except (TypeError, UnicodeError) as error:
        raise UsageError(f"{path!r} is no path: {error}") from error


def show(path: AnyPath) -> str:
    """A path as the program writes it: text on one line, from which the bytes come back."""
    text = path_bytes(path).decode("utf-8", "surrogateescape")
    return _HIDDEN.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return "".join(f"\\x{byte:02x}" for byte in found.group().encode("utf-8", "surrogateescape"))


def unshow(shown: str) -> str:
    """The path of which the program wrote this."""
    data = shown.encode("utf-8", "surrogateescape")
    return _ESCAPE.sub(lambda found: bytes([int(found.group(1), 16)]), data).decode("utf-8", "surrogateescape")
