"""OutputFile: a file to which answers are appended, perhaps after the answers of a previous run."""

import contextlib
import fcntl
import os
import stat

import msgspec

from engine.errors import StartupError


class _Response(msgspec.Struct):
    status_code: int


class StoredAnswer(msgspec.Struct):
    """The fields of an output line that are needed to resume a run."""

    custom_id: str
    response: _Response | None = None

    @property
    def is_completed(self) -> bool:
        return self.response is not None and self.response.status_code < 400


_decode = msgspec.json.Decoder(StoredAnswer).decode


class OutputFile:
    """An append-only file of answers. Only the last line can be incomplete, if a run was killed: it is dropped, and its
    request runs again. After a failed write, nothing more is written."""

    def __init__(self, path: str) -> None:
        """Open and lock the file. Raises StartupError if it cannot be written, or another command is writing it."""
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
        self._failure: str | None = None  # the first error, after which nothing is written

    def recover(self) -> list[StoredAnswer]:
        """Drop an incomplete last line, and return the stored answers. Raises StartupError for other content."""
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
        """Append a line, with its newline. Raises StartupError if this or an earlier write failed."""
        if self._failure is not None:
            raise StartupError(self._failure)
        view = memoryview(line)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            self._failure = f"cannot write {self.path}: {error.strerror}; free some space and run the command again"
            with contextlib.suppress(OSError):  # `recover` drops an incomplete line
                os.ftruncate(self._fd, self._size)
            raise StartupError(self._failure) from None
        self._size += len(line)

    def close(self) -> None:
        """Sync the file to the disk, and close it."""
        os.fsync(self._fd)
        os.close(self._fd)
