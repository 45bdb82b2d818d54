"""AnswerJournal: the answers of a synthesis, in an append-only file beside its output."""

import msgspec

from engine.errors import OptionError, StartupError
from server.batches.answers import answer_line
from server.commands.batch.output_file import OutputFile
from server.jobs.answers import BodyAnswer

SUFFIX = ".journal"  # after the name of the output


class _Response(msgspec.Struct):
    status_code: int
    request_id: str
    body: msgspec.Raw


class RunName(msgspec.Struct, frozen=True):
    """The run that an output belongs to: another recipe or seed would replace its lines. digest: of the recipe's
    contents; empty in journals that older versions started."""

    recipe: str
    seed: int
    digest: str = ""

    def __str__(self) -> str:
        return f"recipe {self.recipe} with --seed {self.seed}"


class _Line(msgspec.Struct, omit_defaults=True):
    custom_id: str
    response: _Response | None = None
    run: RunName | None = None  # before the answers


class AnswerJournal:
    """Answers by custom_id, in the format of a batch's output, after a line that names the run. Refusals are not
    written: they cost nothing, and their reason may be gone in the next run."""

    def __init__(self, path: str, run: RunName, *, has_changed: bool = False) -> None:
        """Open and lock the file, and drop an incomplete last line. has_changed: the contents of the recipe may differ
        from those of earlier runs. Raises StartupError, and OptionError if it has answers of another run."""
        self._answers: dict[str, BodyAnswer] = {}
        self._file = OutputFile(path)
        try:
            self._open(path, run, has_changed)
        except StartupError:
            self._file.close()
            raise

    def _open(self, path: str, run: RunName, has_changed: bool) -> None:
        found = None
        try:
            self._file.recover()
            with open(path, "rb") as file:
                for line in file:
                    found = self._read(line) or found
        except (StartupError, OSError, msgspec.DecodeError) as error:
            raise StartupError(
                f"{path} is not the journal of a synthesis ({error}); remove it, or name another --out"
            ) from None
        if found == run:
            return
        if self._answers:
            out = path.removesuffix(SUFFIX)
            if found is None or (found.recipe, found.seed) != (run.recipe, run.seed):
                raise OptionError(
                    f"{out} is of {found or 'an unknown run'}, and {run} would replace its lines; name another --out, "
                    f"or delete {out} and {path}"
                )
            if found.digest and not has_changed:
                raise OptionError(
                    f"{out} is of a recipe that is also named {run.recipe} and has other contents (digest "
                    f"{found.digest}, now {run.digest}), and this one would replace its lines; name another --out, or "
                    "add --recipe-changed if it is the same recipe after a change"
                )
        self._file.add(msgspec.json.encode(_Line("", run=run)) + b"\n")

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

    def _read(self, line: bytes) -> RunName | None:
        """Keep the answer of a line; return the run that it names."""
        read = msgspec.json.decode(line, type=_Line)
        if (answer := _answer_of(read)) is not None and answer.is_completed:
            self._answers[read.custom_id] = answer
        return read.run


def read_answer_line(line: bytes) -> tuple[str, BodyAnswer | None]:
    """Return the custom_id and the answer of a line of a batch's output; None for one that was not run."""
    read = msgspec.json.decode(line, type=_Line)
    return read.custom_id, _answer_of(read)


def _answer_of(read: _Line) -> BodyAnswer | None:
    if (response := read.response) is None:
        return None
    return BodyAnswer(response.request_id, response.status_code, bytes(response.body))
