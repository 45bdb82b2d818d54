"""SemanticDuplicates: lines that say the same in other words, by the vectors of an embedding model."""

import base64
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from server.data.lines import LineKind, parse_line
from server.data.memory import LINE_BYTES, TooManyLines
from server.data.options import SEMANTIC_THRESHOLD
from server.data.preparation import KeptLine, Preparation
from server.data.report import Cluster
from server.data.words import words_of
from server.finetuning.scores.line_questions import LineQuestion, Values, check_answer
from server.jobs.answers import BodyAnswer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

EMBEDDINGS = "/v1/embeddings"
RULE = "semantic_duplicate"
_PIECE = 500  # characters of a text, since small embedding models read 256 tokens
_MAX_PIECES = 16  # of a text
_COSINES = 1 << 22  # of a text that are computed at a time
_MAX_CLUSTERS = 20
_MIB = 1 << 20


class _Vector(msgspec.Struct):
    embedding: str


class _Vectors(msgspec.Struct):
    data: list[_Vector]


class SemanticDuplicates:
    """Finds lines whose questions and answers both have a cosine of at least the threshold with an earlier kept line's
    (SemDeDup: Abbas et al. 2023, here with the line itself in place of a cluster's center). Lines with
    different numbers are never duplicates, since models give exercises and dates nearly the same vectors."""

    def __init__(self, preparation: Preparation) -> None:
        self._preparation = preparation
        self._options = preparation.options

    def question(self, line: KeptLine) -> LineQuestion:
        """Return the request for the line's vectors. Its value is a vector for each text, in half precision and
        base64: the mean over its pieces."""
        texts = [textwrap.wrap(text[: _PIECE * _MAX_PIECES], _PIECE)[:_MAX_PIECES] for text in _texts(line)]
        body = {
            "model": self._options.semantic_model,
            "input": [piece for pieces in texts for piece in pieces],
            "encoding_format": "base64",
            "truncate": True,
        }

        def read(answers: Sequence[BodyAnswer]) -> list[str]:
            import numpy as np

            check_answer(answers[0], line, "compared")
            vectors = msgspec.json.decode(answers[0].body, type=_Vectors).data
            rows = _unit(np.stack([_decoded(each.embedding, "<f4") for each in vectors]))
            self._check_memory(rows.shape[1])
            values, first = [], 0
            for pieces in texts:
                mean = _unit(rows[first : first + len(pieces)].mean(0, keepdims=True))[0]
                values.append(base64.b64encode(mean.astype("<f2").tobytes()).decode())
                first += len(pieces)
            return values

        return LineQuestion([body], read)

    def remove(self, values: Values) -> None:
        """Remove the kept lines that repeat an earlier one, and add the clusters to the report."""
        kept = self._preparation.kept
        groups: dict[int, list[int]] = {}  # of lines, by their number of texts
        for index, line in enumerate(kept):
            groups.setdefault(len(values[line.file, line.number]), []).append(index)
        found: dict[int, tuple[int, float]] = {}
        for indices in groups.values():
            vectors = [values[kept[index].file, kept[index].number] for index in indices]
            found.update(self._duplicates(indices, vectors))
        report = self._preparation.report
        clusters: dict[int, list[str]] = {}
        for index, (of, _) in sorted(found.items()):
            clusters.setdefault(of, []).append(self._preparation.place_of(kept[index]))
        largest = sorted(clusters.items(), key=lambda each: (-len(each[1]), each[0]))
        report.num_semantic_clusters = len(largest)
        report.semantic_clusters = [
            Cluster(
                line=self._preparation.place_of(kept[of]), num_duplicates=len(lines), duplicates=lines[:_MAX_CLUSTERS]
            )
            for of, lines in largest[:_MAX_CLUSTERS]
        ]
        removed = {
            index: (RULE, f"cosine {cosine:.3f} with {self._preparation.place_of(kept[of])}")
            for index, (of, cosine) in found.items()
        }
        self._preparation.remove_kept(removed, {RULE: len(kept)})

    def _duplicates(self, indices: Sequence[int], vectors: Sequence[list[str]]) -> dict[int, tuple[int, float]]:
        """Return the kept line that each duplicate repeats, and their cosine. indices: of lines with as many texts."""
        import numpy as np

        sides = matrices_of(vectors)
        given = self._options.semantic_threshold
        threshold = SEMANTIC_THRESHOLD if given is None else given
        numbers = [_numbers(self._preparation.kept[index]) for index in indices]
        found: dict[int, tuple[int, float]] = {}
        size = max(1, _COSINES // len(indices))  # of a block of lines, so that its cosines have a bound
        for start in range(0, len(indices), size):
            end = min(start + size, len(indices))
            cosines = least_cosines(sides, start, end)
            for row, place in enumerate(range(start, end)):
                for other in np.flatnonzero(cosines[row, :place] >= threshold).tolist():
                    if indices[other] not in found and numbers[other] == numbers[place]:
                        found[indices[place]] = indices[other], float(cosines[row, other])
                        break
        return found

    def _check_memory(self, num_dimensions: int) -> None:
        """Raise TooManyLines if the vectors of all kept lines do not fit beside the lines."""
        budget = self._preparation.budget
        if budget is None:
            return
        # Two texts: each in base64 until the end, and then as a row of single precision.
        line_bytes = LINE_BYTES + 2 * num_dimensions * (3 + 4)
        if budget.held_bytes + len(self._preparation.kept) * line_bytes > budget.limit_bytes:
            num_fit = max(0, budget.limit_bytes - budget.held_bytes) // line_bytes
            raise TooManyLines(
                num_fit,
                f"the vectors of the lines need more memory than the {budget.limit_bytes // _MIB:,} MiB that they may "
                f"take: {line_bytes:,} bytes beside each line, so about {num_fit:,} lines fit; prepare them in parts, "
                "or leave semantic_model out",
            )


def matrices_of(vectors: Sequence[Sequence[str]]) -> "list[Matrix]":
    """Return a matrix of unit vectors for each text of the lines, [lines, dimensions], fp32. vectors: of each line, the
    value of its question."""
    import numpy as np

    return [
        _unit(np.stack([_decoded(each[side], "<f2") for each in vectors]).astype(np.float32))
        for side in range(len(vectors[0]))
    ]


def least_cosines(sides: "Sequence[Matrix]", start: int, end: int) -> "Matrix":
    """Return the cosines of the lines from `start` to `end` with those before `end`, [end - start, end]: the least over
    their texts."""
    import numpy as np

    return np.minimum.reduce([side[start:end] @ side[:end].T for side in sides])


def _texts(line: KeptLine) -> list[str]:
    """Return the texts of a line that are compared: of chats and preferences what precedes the last (or the preferred)
    answer without system messages, and the answer; of plain text and prompts one text."""
    parsed, _ = parse_line(line.data, line.number, line.file)
    last = -1 if line.kind in (LineKind.CHAT, LineKind.COMPLETION) else None
    request = "\n".join(turn.text for turn in parsed.turns[:last] if turn.role not in ("system", "developer"))
    if line.kind is LineKind.TEXT:
        texts = [parsed.value["text"]]
    elif line.kind is LineKind.PROMPT:
        texts = [request]
    elif line.kind is LineKind.PREFERENCE:
        texts = [request, parsed.answers[0]]
    else:
        texts = [request, parsed.answers[-1]]
    return [text if text.strip() else "(empty)" for text in texts]  # a prompt may be empty, and an answer a call


def _numbers(line: KeptLine) -> list[str]:
    """Return the words with digits in a line's texts, in their order."""
    return [word for text in _texts(line) for word in words_of(text) if any(map(str.isdigit, word))]


def _decoded(text: str, dtype: str) -> "NDArray[Any]":
    import numpy as np

    return np.frombuffer(base64.b64decode(text), dtype)


def _unit(rows: "Matrix") -> "Matrix":
    """Divide the rows in place by their lengths, and return them; a row of zeros stays one."""
    import numpy as np

    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=rows, where=lengths > 0)
