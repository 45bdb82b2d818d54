"""AnswerJournal: the answers of a synthesis, in an append-only file beside its output."""

import msgspec

from engine.errors import StartupError
from server.batches.answers import answer_line
from server.commands.batch.output_file import OutputFile
from server.jobs.answers import BodyAnswer

SUFFIX = ".journal"  # after the name of the output


class _Response(msgspec.Struct):
    status_code: int
    request_id: str
    body: msgspec.Raw


class _Line(msgspec.Struct):
    custom_id: str
    response: _Response | None = None


class AnswerJournal:
    """Answers by custom_id, in the format of a batch's output. Refusals are not written: they cost nothing, and their
    reason may be gone in the next run."""

    def __init__(self, path: str) -> None:
        """Open and lock the file, and drop an incomplete last line. Raises StartupError."""
        self._answers: dict[str, BodyAnswer] = {}
        self._file = OutputFile(path)
        try:
            self._file.recover()
            with open(path, "rb") as file:
                for line in file:
                    self._read(line)
        except (StartupError, OSError, msgspec.DecodeError) as error:
            self._file.close()
            raise StartupError(
                f"{path} is not the journal of a synthesis ({error}); remove it, or name another --out"
            ) from None

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, custom_id: str) -> BodyAnswer | None:
        return self._answers.get(custom_id)

    def add(self, custom_id: str, answer: BodyAnswer) -> None:
        """Append an answer. Raises StartupError if it cannot be written."""
        self._file.add(answer_line(custom_id, answer))
        self._answers[custom_id] = answer

    def close(self) -> None:
        self._file.close()

    def _read(self, line: bytes) -> None:
        custom_id, answer = read_answer_line(line)
        if answer is not None and answer.is_completed:
            self._answers[custom_id] = answer


def read_answer_line(line: bytes) -> tuple[str, BodyAnswer | None]:
    """Return the custom_id and the answer of a line of a batch's output; None for one that was not run."""
    read = msgspec.json.decode(line, type=_Line)
    if (response := read.response) is None:
        return read.custom_id, None
    return read.custom_id, BodyAnswer(response.request_id, response.status_code, bytes(response.body))
