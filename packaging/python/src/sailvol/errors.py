"""What can go wrong, by what the caller does about it.

The classes are the failure kinds of the program and of the control protocol (one exit code each); a kind that this
version does not know becomes a plain :class:`SailvolError`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Mapping, Optional


class SailvolError(Exception):
    """Base of all errors of this package; itself: something failed that no other class names.

    Attributes:
        message: what happened.
        hint: what to do about it, if there is something to say.
        kind: the word of the control protocol for the class of failure.
        exit_code: what the command line program exits with.
    """

    kind: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: Optional[str] = None) -> None:
        super().__init__(message if hint is None else f"{message}\n  {hint}")
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[SailvolError], tuple[str, Optional[str]]]:
        # Exceptions cross process borders in worker pools; without this the hint would be lost on the way.
        return type(self), (self.message, self.hint)

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback: the message says more than our own stack would."""
        return [f"{type(self).__name__}: {self}"]


class UsageError(SailvolError):
    """The request was wrong: an argument, or no mount where one was expected."""

    kind = "usage"
    exit_code = 2


class NotMounted(UsageError):
    """The named directory is in no mount, or the mount's daemon is gone."""


class Refused(SailvolError):
    """A rule forbids it: local changes, a quota, another operation that runs, something that exists already."""

    kind = "refused"
    exit_code = 3


class NoAccess(SailvolError):
    """Credentials or permissions."""

    kind = "no-access"
    exit_code = 4


class StoreUnreachable(SailvolError):
    """The store does not answer. Nothing was lost; try again."""

    kind = "store-unreachable"
    exit_code = 5


class OutcomeUnknown(SailvolError):
    """It may have happened or not. The next commit or reload settles it."""

    kind = "outcome-unknown"
    exit_code = 6


class DamagedData(SailvolError):
    """Stored or local data is damaged."""

    kind = "damaged"
    exit_code = 7


class ProgramMissing(SailvolError):
    """The operation needs the ``sailvol`` program, and it is not on the PATH (nor named by ``SAILVOL_PROGRAM``)."""


_CLASSES: tuple[type[SailvolError], ...] = (
    UsageError,
    Refused,
    NoAccess,
    StoreUnreachable,
    OutcomeUnknown,
    DamagedData,
)
_BY_KIND = {cls.kind: cls for cls in _CLASSES}
_BY_EXIT_CODE = {cls.exit_code: cls for cls in _CLASSES}


def from_failure(failure: Mapping[str, Any]) -> SailvolError:
    """The exception for a failure as the program writes it: ``kind``, ``message`` and perhaps ``hint``."""
    cls = _BY_KIND.get(str(failure.get("kind")), SailvolError)
    hint = failure.get("hint")
    return cls(str(failure.get("message", "failed")), None if hint is None else str(hint))


def from_exit_code(code: int, message: str) -> SailvolError:
    """The exception for a program that said what is wrong in plain text."""
    return _BY_EXIT_CODE.get(code, SailvolError)(message)
