"""Semantic duplicates: lines whose questions and answers have nearly the vectors of an earlier line's."""

import base64
import json
import struct
from collections.abc import Sequence
from typing import Any

import pytest

from engine.command_io.finetuning.data_preparation import Dedup, PreparationOptions
from engine.errors import InvalidRequest, StartupError
from server.data.memory import LineMemory, TooManyLines
from server.data.options import check_preparation
from server.data.preparation import Preparation
from server.finetuning.scores import semantic
from server.finetuning.scores.model_steps import ModelSteps
from server.finetuning.scores.semantic import least_cosines
from server.jobs.answers import BodyAnswer
from tests.helpers.data_lines import chat

pytestmark = pytest.mark.fast

# Words that mean the same share a number, and the vector of a text is the count of each number.
_MEANINGS = {"big": 0, "large": 0, "cat": 1, "feline": 1, "runs": 2, "sprints": 2, "sleeps": 3}


async def embed(path: str, bodies: Sequence[dict[str, Any]]) -> list[BodyAnswer]:
    assert path == "/v1/embeddings"
    answers = []
    for body in bodies:
        assert (body["model"], body["encoding_format"], body["truncate"]) == ("words", "base64", True)
        data = []
        for text in body["input"]:
            counts = [0.0] * 5
            for word in text.lower().split():
                counts[_MEANINGS.get(word.strip(".?"), 4)] += 1
            data.append({"embedding": base64.b64encode(struct.pack("<5f", *counts)).decode()})
        answers.append(BodyAnswer("", 200, json.dumps({"data": data}).encode()))
    return answers


def _preparation(*lines: dict[str, Any], **options: Any) -> Preparation:
    given = PreparationOptions(dedup=Dedup.NONE, quality=(), semantic_model="words", max_removed=1, **options)
    made = Preparation(given, ["in.jsonl"])
    for number, line in enumerate(lines, 1):
        made.add(0, number, json.dumps(line).encode())
    made.finish()
    return made


async def _left(preparation: Preparation) -> list[int]:
    await ModelSteps(preparation, embed, preparation.check_removed).deduplicate()
    return [line.number for line in preparation.kept]


async def test_lines_that_say_the_same_are_removed_and_reported_as_clusters() -> None:
    preparation = _preparation(
        chat("Big cat?", "It runs."),
        chat("Large feline?", "It sprints."),
        chat("Big feline?", "It sleeps."),  # the same question with another answer
        chat("Large cat?", "It runs."),
        chat("Large cat?", "It sleeps."),
    )
    assert await _left(preparation) == [1, 3]
    report = preparation.report
    removed = report.removed["semantic_duplicate"]
    assert (removed.num, removed.num_judged, removed.lines) == (3, 5, ["2", "4", "5"])
    assert removed.examples[0].detail == "cosine 1.000 with 1"
    assert report.num_semantic_clusters == 2
    assert [(each.line, each.duplicates) for each in report.semantic_clusters] == [("1", ["2", "4"]), ("3", ["5"])]
    assert report.num_kept == 2


async def test_a_line_is_compared_with_kept_lines_alone() -> None:
    lines = ({"text": "cat cat"}, {"text": "cat cat runs"}, {"text": "cat cat runs runs"})
    # Neighbors have 0.89 and 0.95, and the first and the last 0.71.
    assert await _left(_preparation(*lines, semantic_threshold=0.85)) == [1, 3]
    assert await _left(_preparation(*lines, semantic_threshold=0.99)) == [1, 2, 3]


async def test_lines_with_other_numbers_are_no_duplicates() -> None:
    lines = [chat(f"What is {number} and 7?", "It runs.") for number in (3, 4, 3)]
    assert await _left(_preparation(*lines)) == [1, 2]


async def test_system_messages_do_not_count_and_all_kinds_are_compared() -> None:
    system = {"role": "system", "content": "runs sleeps runs sleeps runs sleeps runs sleeps"}
    asked = [{"role": "user", "content": "Big cat?"}]
    pair = {
        "input": {"messages": asked},
        "preferred_output": [{"role": "assistant", "content": "It runs."}],
        "non_preferred_output": [{"role": "assistant", "content": "No."}],
    }
    other = {**pair, "input": {"messages": [system, {"role": "user", "content": "Large feline?"}]}}
    assert await _left(_preparation(pair, other)) == [1]
    prompts = [{"messages": asked}, {"messages": [{"role": "user", "content": "Large feline?"}]}]
    assert await _left(_preparation(*prompts)) == [1]
    call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    calls = {"messages": [*asked, {"role": "assistant", "tool_calls": [call]}]}
    assert await _left(_preparation(calls, chat("Big cat?", "It runs."))) == [1, 2]


async def test_the_whole_of_a_long_text_is_compared() -> None:
    beginning = "cat " * 300
    texts = [{"text": beginning + end * 300} for end in ("runs ", "sleeps ", "sprints ")]
    assert await _left(_preparation(*texts)) == [1, 2]


async def test_many_lines_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic, "_COSINES", 900)
    words = [*_MEANINGS][::2]
    lines = [{"text": f"{words[place % 4]} " * (1 + place % 3)} for place in range(90)]
    blocks = []

    def cosines(sides: Sequence[Any], start: int, end: int) -> Any:
        found = least_cosines(sides, start, end)
        blocks.append(found.shape)
        return found

    monkeypatch.setattr(semantic, "least_cosines", cosines)
    assert await _left(_preparation(*lines)) == [1, 2, 3, 4]
    assert blocks == [(10, end) for end in range(10, 91, 10)]


async def test_vectors_that_do_not_fit_into_the_memory_are_refused_with_the_number_that_does() -> None:
    preparation = _preparation(*({"text": f"cat {word}"} for word in "abcdefghij"))
    preparation.budget = LineMemory(2000, 1000)
    with pytest.raises(TooManyLines, match=r"the vectors of the lines need more memory than .* so about 5 lines fit"):
        await _left(preparation)


async def test_a_refused_request_is_named_with_its_line() -> None:
    async def refuses(_path: str, bodies: Sequence[dict[str, Any]]) -> list[BodyAnswer]:
        return [BodyAnswer("", 400, b'{"error": {"message": "it generates text"}}') for _ in bodies]

    preparation = _preparation({"text": "cat"})
    with pytest.raises(StartupError, match="line 1 cannot be compared: it generates text"):
        await ModelSteps(preparation, refuses, preparation.check_removed).deduplicate()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"semantic_threshold": 0.9}, "semantic_threshold is 0.9, and no semantic_model is named"),
        ({"semantic_model": "words", "semantic_threshold": 0.2}, "semantic_threshold is 0.2; it must be from 0.5 to 1"),
    ],
)
def test_wrong_thresholds_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        check_preparation(PreparationOptions(dedup=Dedup.NONE, **options))
