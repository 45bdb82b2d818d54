"""Lines with text of an evaluation: which are found, by which words."""

import json
from typing import Any

import pytest

from server.data.contamination import EvaluationIndex, Leak
from server.data.lines import parse_line
from tests.helpers.data_lines import chat, random_text

pytestmark = pytest.mark.fast


def _leak(line: Any, *evaluation: Any, ngram: int = 13) -> Leak | None:
    index = EvaluationIndex(ngram)
    for number, value in enumerate(evaluation, 1):
        index.add("eval.jsonl", parse_line(json.dumps(value).encode(), number)[0])
    return index.leak(parse_line(json.dumps(line).encode(), 1)[0])


LONG = random_text(1, 40)
WORDS = LONG.rstrip(".").split()


def test_thirteen_words_in_a_row_are_a_leak_without_case_and_punctuation() -> None:
    copied = " ".join(WORDS[10:23])
    found = _leak(chat("Say", f"{random_text(2)} {copied.upper()}! {random_text(3)}"), chat("Q?", LONG))
    assert found == Leak("eval.jsonl", 1, copied)
    assert _leak(chat("Say", f"{random_text(2)} {' '.join(WORDS[10:22])} x {random_text(3)}"), chat("Q?", LONG)) is None


def test_half_of_a_long_texts_eight_grams_are_a_leak() -> None:
    question = " ".join(WORDS[:24])
    changed = " ".join([*WORDS[:12], "x", *WORDS[13:24]])
    assert _leak(chat(changed, random_text(4)), chat(question, "Yes")) is not None
    assert _leak(chat(" ".join([*WORDS[:12], *"abcd"]), random_text(4)), chat(question, "Yes")) is None


def test_a_shorter_question_leaks_as_a_whole() -> None:
    question = " ".join(WORDS[:12])
    assert _leak(chat(f"Say: {question}", random_text(4)), chat(question, "Yes")) is not None
    assert _leak(chat(" ".join([*WORDS[:11], "x"]), random_text(4)), chat(question, "Yes")) is None


def test_a_short_question_is_compared_whole() -> None:
    evaluation = chat("What is the capital of France?", "Paris")
    assert _leak(chat("what is the capital of france", "Lyon"), evaluation) is not None
    assert _leak(chat("What is the capital of France and of Spain?", "x"), evaluation) is None
    assert _leak(chat("Hello", "x"), chat("Hello", "y")) is None


def test_a_common_short_answer_is_no_leak() -> None:
    answer = "I do not know, but I can look it up."
    assert _leak(chat(random_text(5), answer), chat("What is the name of it?", answer)) is None


def test_instructions_of_many_lines_are_no_leak() -> None:
    instruction = random_text(6, 15)
    evaluation = [chat(f"{instruction} {random_text(seed, 30)}", "Yes") for seed in range(20, 32)]
    assert _leak(chat(f"{instruction} {random_text(7, 30)}", "No"), *evaluation) is None
    assert _leak(evaluation[3], *evaluation) is not None


@pytest.mark.parametrize("num_words", [10, 30])
@pytest.mark.parametrize("form", ["{instruction} {question}", "{question} {instruction}"])
def test_a_long_instruction_is_no_leak_and_questions_beside_it_are(form: str, num_words: int) -> None:
    def asked(seed: int) -> dict[str, Any]:
        return chat(form.format(instruction=random_text(6, 120), question=random_text(seed, num_words)), "Yes")

    evaluation = [asked(seed) for seed in range(20, 72)]
    assert _leak(asked(7), *evaluation) is None
    assert _leak(evaluation[3], *evaluation) is not None
    is_found = _leak(chat(random_text(23, num_words), "No"), *evaluation) is not None
    assert is_found == (num_words > 13)


@pytest.mark.parametrize("form", ["{passage} {question}", "{question} {passage}", "Read this. {passage} {question}"])
def test_a_passage_of_many_questions_leaks(form: str) -> None:
    passage = random_text(8, 80)
    evaluation = [chat(form.format(passage=passage, question=f"What is {seed}?"), "Yes") for seed in range(11)]
    assert _leak({"text": passage}, *evaluation) is not None


def test_the_same_line_again_does_not_make_an_instruction_of_it() -> None:
    line = chat(random_text(9, 20), "Yes")
    spaced = chat(f" {random_text(9, 20)}", "yes")
    assert _leak(line, *[line, spaced] * 6) is not None


def test_an_instruction_may_stand_at_the_end() -> None:
    instruction = random_text(6, 20)
    evaluation = [chat(f"{random_text(seed, 30)} {instruction}", "Yes") for seed in range(20, 32)]
    assert _leak(chat(f"{random_text(7, 30)} {instruction}", "No"), *evaluation) is None


def test_japanese_counts_characters_twice() -> None:
    text = "川の向こうにある古い町では毎年春になると大きな祭りが開かれて多くの人が船で集まる"
    assert _leak(chat("言って", f"はい、{text[3:29]}。"), chat("何？", text)) is not None
    assert _leak(chat("言って", f"はい、{text[3:28]}と言う。"), chat("何？", text)) is None


def test_a_plain_text_and_prompts_are_evaluations_too() -> None:
    prompt = {"messages": [{"role": "user", "content": LONG}], "reference": 1}
    assert _leak({"text": f"Once. {LONG}"}, prompt) is not None
    assert _leak({"prompt": LONG, "completion": "x"}, {"text": LONG}) is not None
