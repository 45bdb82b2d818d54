"""From files to examples: what the model will see, what of it is learned, and what is left out."""

import codecs
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from engine.command_io.finetuning.items import Passage
from engine.command_io.finetuning.job import TrainingMethod
from server.config.server import ServerConfig
from server.finetuning.preparation import FaultyFile, prepare
from server.finetuning.rendering import ModelTokens, Renderer
from server.text.chat_templates.direct_templates import DirectTemplates
from server.text.detokenizer import decode
from server.text.workers import TextWorkers
from server.text_model import TextModel, build_text_model
from tests.helpers.tokenizers import byte_level_info

pytestmark = pytest.mark.fast

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Opens a thought for each answer, and drops the thoughts of earlier ones.
THINKING = CHATML.replace("assistant\n' }}", "assistant\n<think>\n' }}")
LAST_ALONE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if loop.last and m.role == 'assistant' %}{{ '(last) ' }}{% endif %}{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def workers() -> Iterator[TextWorkers]:
    made = TextWorkers()
    yield made
    made.close()


def _model(workers: TextWorkers, template: str | None = CHATML) -> TextModel:
    config = ServerConfig(chat_template=template)
    return build_text_model(byte_level_info(), config, workers, DirectTemplates())


def _chat(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        **more,
    }


def _file(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _chats(count: int = 10) -> list[Any]:
    return [_chat(f"question {index}", f"answer {index}") for index in range(count)]


def _learned(passage: Passage, model: TextModel) -> list[str]:
    return [decode(model.tokenizer, passage.ids[first:last]) for first, last in passage.trained]


def test_the_answer_and_the_token_that_ends_it_are_learned_after_the_prompt_that_serves(workers: TextWorkers) -> None:
    model = _model(workers)
    prepared = prepare(_file(_chats()), None, TrainingMethod.SUPERVISED, Renderer(ModelTokens(model), 500))

    passage = prepared.train[3].passages[0]
    prompt = model.tokenizer.encode(
        "<|im_start|>user\nquestion 3<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False
    )
    answer = model.tokenizer.encode("answer 3<|im_end|>", add_special_tokens=False)
    assert passage == Passage([*prompt, *answer], [(len(prompt), len(prompt) + len(answer))])
    assert prepared.train[3].line == 4


def test_all_learned_turns_of_a_chat_are_one_passage(workers: TextWorkers) -> None:
    model = _model(workers)
    turns = [*_chat("a", "b")["messages"], *_chat("c", "d")["messages"], *_chat("e", "f")["messages"]]
    turns[3] = {**turns[3], "weight": 0}
    prepared = prepare(
        _file([*_chats(9), {"messages": turns}]), None, TrainingMethod.SUPERVISED, Renderer(ModelTokens(model), 500)
    )

    (passage,) = prepared.train[9].passages
    texts = [model.tokenizer.encode(f"{answer}<|im_end|>", add_special_tokens=False) for answer in ("b", "f")]
    assert [passage.ids[first:last] for first, last in passage.trained] == texts


def test_turns_that_the_template_writes_otherwise_later_are_passages_of_their_own(workers: TextWorkers) -> None:
    model = _model(workers, LAST_ALONE)
    turns = [*_chat("a", "b")["messages"], *_chat("c", "d")["messages"]]
    prepared = prepare(
        _file([*_chats(9), {"messages": turns}]), None, TrainingMethod.SUPERVISED, Renderer(ModelTokens(model), 500)
    )

    assert [item.line for item in prepared.train[9:]] == [10, 10]
    assert ["(last) b" in decode(model.tokenizer, item.passages[0].ids) for item in prepared.train[9:]] == [True, False]


def test_an_answer_without_the_thought_that_its_prompt_opens_is_learned(workers: TextWorkers) -> None:
    model = _model(workers, THINKING)
    prepared = prepare(_file(_chats()), None, TrainingMethod.SUPERVISED, Renderer(ModelTokens(model), 500))

    assert _learned(prepared.train[0].passages[0], model)[0].startswith("answer 0")


def test_text_that_spells_a_control_token_is_plain_text(workers: TextWorkers) -> None:
    model = _model(workers)
    prepared = prepare(
        _file([*_chats(9), _chat("<|im_end|>", "no <|im_end|> yes")]),
        None,
        TrainingMethod.SUPERVISED,
        Renderer(ModelTokens(model), 500),
    )

    passage = prepared.train[9].passages[0]
    end = model.tokenizer.token_to_id("<|im_end|>")
    assert passage.ids.count(end) == 2  # of the question, and of the answer
    assert passage.ids[passage.trained[0][1] - 1] == end


def test_a_preference_has_two_passages_after_one_prompt(workers: TextWorkers) -> None:
    model = _model(workers)
    rows = [
        {
            "input": {"messages": [{"role": "user", "content": f"q {index}"}]},
            "preferred_output": [{"role": "assistant", "content": "yes"}],
            "non_preferred_completion": [{"role": "assistant", "content": "no no"}],
        }
        for index in range(10)
    ]
    prepared = prepare(_file(rows), None, TrainingMethod.DPO, Renderer(ModelTokens(model), 500))

    preferred, other = prepared.train[0].passages
    first = preferred.trained[0][0]
    assert preferred.ids[:first] == other.ids[:first]
    assert other.num_trained > preferred.num_trained


def test_a_long_text_is_divided_so_that_every_token_but_the_first_is_learned_once(workers: TextWorkers) -> None:
    model = _model(workers)
    text = "One two three, four five six. " * 8
    prepared = prepare(text.encode(), None, TrainingMethod.PRETRAINING, Renderer(ModelTokens(model), 16))

    ids = [*model.tokenizer.encode(text), 1]
    learned = [token for item in prepared.train for token in item.passages[0].ids[1:]]
    assert learned == ids[1:]
    assert all(len(item.passages[0].ids) <= 16 for item in prepared.train)


def test_duplicates_and_lines_of_the_validation_file_are_left_out_with_their_numbers(workers: TextWorkers) -> None:
    rows = [*_chats(12), _chat("Question  1", "ANSWER 1"), _chat("question 2", "answer 2")]
    prepared = prepare(
        _file(rows),
        _file([_chat("question 5", "answer 5")]),
        TrainingMethod.SUPERVISED,
        Renderer(ModelTokens(_model(workers)), 500),
    )

    assert prepared.report.removed == {"in_validation_file": [6], "duplicate": [13, 14]}
    assert [item.line for item in prepared.train] == [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]
    assert prepared.report.num_valid_items == 1


def test_every_fault_of_a_file_is_named_with_its_line(workers: TextWorkers) -> None:
    rows = [*_chats(8), {"messages": []}, {"message": []}]
    with pytest.raises(FaultyFile) as caught:
        prepare(_file(rows), None, TrainingMethod.SUPERVISED, Renderer(ModelTokens(_model(workers)), 500))

    assert [fault.line for fault in caught.value.faults] == [9, 10]
    assert caught.value.faults[0].text.startswith("line 9: messages is a list of 0 items")


def test_fewer_than_ten_lines_are_refused(workers: TextWorkers) -> None:
    with pytest.raises(FaultyFile, match="has 9 lines; at least 10 are needed"):
        prepare(_file(_chats(9)), None, TrainingMethod.SUPERVISED, Renderer(ModelTokens(_model(workers)), 500))


def test_lines_that_are_left_out_do_not_count_as_examples(workers: TextWorkers) -> None:
    rows, valid = [*_chats(10), *_chats(3)], _chats(2)
    with pytest.raises(
        FaultyFile,
        match=r"has 13 lines, and 8 without those that are in the validation file \(4\) or repeat an earlier one \(1\)",
    ):
        prepare(_file(rows), _file(valid), TrainingMethod.SUPERVISED, Renderer(ModelTokens(_model(workers)), 500))
    with pytest.raises(FaultyFile, match=r"has 12 lines, and 1 without those that repeat an earlier one \(11\)"):
        prepare(_file(_chats(1) * 12), None, TrainingMethod.SUPERVISED, Renderer(ModelTokens(_model(workers)), 500))
    assert (
        len(prepare(_file(rows), None, TrainingMethod.SUPERVISED, Renderer(ModelTokens(_model(workers)), 500)).train)
        == 10
    )


def test_long_examples_are_cut_and_counted_and_refused_where_nothing_is_left_to_learn(workers: TextWorkers) -> None:
    renderer = Renderer(ModelTokens(_model(workers)), 60)
    prepared = prepare(_file([*_chats(9), _chat("q", "long " * 30)]), None, TrainingMethod.SUPERVISED, renderer)

    assert len(prepared.train[9].passages[0].ids) == 60
    assert prepared.report.num_cut == 1
    with pytest.raises(FaultyFile, match=r"line 10: it has .* starts after 60 \(max_length\)"):
        prepare(_file([*_chats(9), _chat("long " * 30, "a")]), None, TrainingMethod.SUPERVISED, renderer)


def test_chats_need_a_chat_template(workers: TextWorkers) -> None:
    with pytest.raises(FaultyFile, match="line 1: the model has no chat template"):
        prepare(_file(_chats()), None, TrainingMethod.SUPERVISED, Renderer(ModelTokens(_model(workers, None)), 500))


@pytest.mark.parametrize("method", [TrainingMethod.SUPERVISED, TrainingMethod.PRETRAINING])
def test_a_byte_order_mark_is_no_part_of_a_file(workers: TextWorkers, method: TrainingMethod) -> None:
    rows = _chats(11) if method is TrainingMethod.SUPERVISED else [{"text": f"text {index}"} for index in range(3)]
    renderer = Renderer(ModelTokens(_model(workers)), 500)
    data = _file(rows)
    marked = prepare(codecs.BOM_UTF8 + data, codecs.BOM_UTF8 + _file(rows[:1]), method, renderer)
    assert marked == prepare(data, _file(rows[:1]), method, renderer)


def test_a_plain_text_has_no_byte_order_mark(workers: TextWorkers) -> None:
    renderer = Renderer(ModelTokens(_model(workers)), 500)
    marked = prepare(codecs.BOM_UTF8 + b"Some text.", None, TrainingMethod.PRETRAINING, renderer)
    assert marked == prepare(b"Some text.", None, TrainingMethod.PRETRAINING, renderer)


@pytest.mark.parametrize(
    ("data", "line", "message"),
    [
        (b"one\ntwo \xff three\nfour\n", 2, "the byte 0xff"),
        ("Zürich".encode("latin-1"), 1, "the byte 0xfc"),
        ("text".encode("utf-16"), 1, "the byte 0xff"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', 2, ""),
    ],
)
def test_bytes_that_are_no_text_are_named_with_their_line(
    workers: TextWorkers, data: bytes, line: int, message: str
) -> None:
    with pytest.raises(FaultyFile) as caught:
        prepare(data, None, TrainingMethod.PRETRAINING, Renderer(ModelTokens(_model(workers)), 500))
    assert [fault.line for fault in caught.value.faults] == [line]
    assert message in caught.value.faults[0].text
    assert "UTF-8" in caught.value.faults[0].text


def test_a_large_file_takes_little_memory(workers: TextWorkers) -> None:
    """11 bytes for each of its bytes here, where each byte is a token; with all chats kept it would be 42."""
    data = _file([_chat(f"question {index}", f"answer {index}") for index in range(300)])
    renderer = Renderer(ModelTokens(_model(workers)), 1000)
    prepare(data, None, TrainingMethod.SUPERVISED, renderer)  # what is made once
    tracemalloc.start()
    try:
        prepared = prepare(data, None, TrainingMethod.SUPERVISED, renderer)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(prepared.train) == 300
    assert len(prepared.chats) == 2
    assert peak < 20 * len(data)
