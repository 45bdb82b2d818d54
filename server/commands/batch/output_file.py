"""OutputFile: answers as they are appended to a file, and which ones it has from a run before."""

import contextlib
import fcntl
import os
import stat

import msgspec

from engine.errors import StartupError


class _Response(msgspec.Struct):
    status_code: int


class Answered(msgspec.Struct):
    """A line of an output, as far as it matters for a run that goes on from it."""

    custom_id: str
    response: _Response | None = None

    @property
    def is_completed(self) -> bool:
        return self.response is not None and self.response.status_code < 400


_decode = msgspec.json.Decoder(Answered).decode


class OutputFile:
    """Each line is whole or the last one: what a run that was killed left torn is dropped, and answered again.

    So after a line that could not be written there is no other.
    """

    def __init__(self, path: str) -> None:
        """Raises StartupError if the file cannot be written, or another command writes it."""
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise StartupError(f"cannot write {path}: {error.strerror}") from None
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.close(self._fd)
            raise StartupError(f"{path} is not a regular file, so an interrupted run could not continue from it")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise StartupError(f"another command is writing {path}; wait until it ends, or name another file") from None
        self._size = os.fstat(self._fd).st_size
        self._failure: str | None = None  # why nothing is written any more

    def recover(self) -> list[Answered]:
        """The answers that are there. Raises StartupError for a file of something else."""
        found = []
        end = 0
        with open(self._fd, "rb", closefd=False) as file:
            file.seek(0)
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    found.append(_decode(line))
                except (msgspec.DecodeError, UnicodeDecodeError):
                    raise StartupError(
                        f"{self.path}, line {number} is not an answer of a batch; name a new file, or the "
                        "output of the same requests"
                    ) from None
                end += len(line)
        os.ftruncate(self._fd, end)
        self._size = end
        return found

    def add(self, line: bytes) -> None:
        """Append a line, its end included. Raises StartupError if the disk does not take it, or did not take one
        before."""
        if self._failure is not None:
            raise StartupError(self._failure)
        view = memoryview(line)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            self._failure = f"cannot write {self.path}: {error.strerror}; free some space and run the command again"
            with contextlib.suppress(OSError):  # `recover` drops what is left torn
                os.ftruncate(self._fd, self._size)
            raise StartupError(self._failure) from None
        self._size += len(line)

    def close(self) -> None:
        """Have the disk keep what was written."""
        os.fsync(self._fd)
        os.close(self._fd)
