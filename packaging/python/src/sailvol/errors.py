"""What can go wrong, by what the caller does about it.

The classes are the failure kinds of the program and of the control protocol (one exit code each); a kind that this
version does not know becomes a plain :class:`SailvolError`.
"""

from __future__ import annotations

import errno
from types import TracebackType
from typing import Any, ClassVar, Mapping, NoReturn, Optional


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
    # Of those that are an OSError too: handlers look at it.
    _number: ClassVar[Optional[int]] = None

    def __init__(self, message: str, hint: Optional[str] = None) -> None:
        super().__init__(message if hint is None else f"{message}\n  {hint}")
        self.message = message
        self.hint = hint
        if isinstance(self, OSError):
            # Not as attributes of this class, which not all of its subclasses share with OSError.
            setattr(self, "errno", self._number)
            setattr(self, "strerror", message)

    def __str__(self) -> str:
        # An OSError would write its number in front.
        return self.message if self.hint is None else f"{self.message}\n  {self.hint}"

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
    """A rule forbids it: local changes, a quota, another operation that runs."""

    kind = "refused"
    exit_code = 3


class NoAccess(SailvolError, PermissionError):
    """Credentials or permissions. Also a :class:`PermissionError`."""

    kind = "no-access"
    exit_code = 4
    _number = errno.EACCES


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


class NotFound(SailvolError, FileNotFoundError):
    """What was named is not there: a path, volume, record or stash. Also a :class:`FileNotFoundError`."""

    kind = "not-found"
    exit_code = 8
    _number = errno.ENOENT


class AlreadyExists(Refused, FileExistsError):
    """The name is taken, and nobody said that it may be replaced. Also a :class:`FileExistsError`."""

    kind = "exists"
    exit_code = 9
    _number = errno.EEXIST


class ProgramMissing(SailvolError):
    """The operation needs the ``sailvol`` program, and it is not on the PATH (nor named by ``SAILVOL_PROGRAM``)."""


_CLASSES: tuple[type[SailvolError], ...] = (
    UsageError,
    Refused,
    NoAccess,
    StoreUnreachable,
    OutcomeUnknown,
    DamagedData,
    NotFound,
    AlreadyExists,
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


def from_system(error: OSError) -> SailvolError:
    """The exception for what the system said to this package itself."""
    text = str(error)
    if isinstance(error, FileNotFoundError):
        return NotFound(text)
    if isinstance(error, FileExistsError):
        return AlreadyExists(text)
    if isinstance(error, PermissionError):
        return NoAccess(text)
    if error.errno == errno.E2BIG:
        return UsageError(f"an argument is too long for the program: {text}")
    return SailvolError(text)


class CallbackFailed(BaseException):
    """Carries what a caller's own function raised out of here, so that it is not taken for an error of ours."""

    def __init__(self, raised: Exception) -> None:
        super().__init__(raised)
        self.raised = raised


class Inside:
    """``with Inside():`` around the body of a method: what leaves it is a :class:`SailvolError`, or the caller's own.

    Where an error can be told better that is done at its place; this is for what is left. A value of the wrong type or
    range is the caller's, as what the daemon or the program said is checked where it is read.
    """

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        if isinstance(error, CallbackFailed):
            raise error.raised from None
        if error is None or isinstance(error, SailvolError) or not isinstance(error, Exception):
            return
        _raise_ours(error)


def _raise_ours(error: Exception) -> NoReturn:
    if isinstance(error, OSError):
        raise from_system(error) from error
    if isinstance(error, (TypeError, ValueError, ArithmeticError, AttributeError)):
        raise UsageError(f"invalid argument: {error}") from error
    raise SailvolError(f"{type(error).__name__}: {error}") from error
