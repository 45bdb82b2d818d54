"""SequenceGrammar: what is forced, what may follow, and when an output is complete."""

import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.grammar.sequence_grammar import SequenceGrammar
from engine.scheduling.grammar import GrammarError
from tests.helpers.engines import make_request
from tests.helpers.grammars import (
    GRAMMARS,
    decode,
    encode,
    expected_output,
    ledger_vocabulary,
    sequence_grammar,
)
from tests.helpers.ledger import EOS_ID, VOCAB_SIZE, allowed_ids

pytestmark = pytest.mark.fast

OBJECT, *_ = GRAMMARS
NUMBER = GRAMMARS[3]


def test_forced_tokens_are_those_of_the_tokenizer() -> None:
    grammar = sequence_grammar(OBJECT)
    assert grammar.forced_next == encode('{"')[0]
    output = grammar.advance(encode('{"'), max_tokens=100)
    assert output == encode('{"abc":')
    assert grammar.num_forced == len(output) - 1


def test_an_output_ends_with_the_token_that_completes_it() -> None:
    grammar = sequence_grammar(OBJECT)
    grammar.advance(encode('{"'), max_tokens=100)
    output = grammar.advance(encode("true"), max_tokens=100)
    assert decode(output) == 'true,"de":"'
    output = grammar.advance([*encode('de"}'), *encode("true")], max_tokens=100)
    assert decode(output) == 'de"}'
    assert grammar.is_complete


def test_forced_tokens_keep_to_max_tokens() -> None:
    grammar = sequence_grammar(OBJECT)
    assert decode(grammar.advance(encode('{"'), max_tokens=2)) == '{"abc'
    assert not grammar.is_complete
    assert grammar.forced_next == encode('":')[0]


def test_without_appending_only_the_forced_token_may_follow() -> None:
    grammar = sequence_grammar(OBJECT, appends_forced=False)
    assert grammar.advance(encode('{"'), max_tokens=100) == encode('{"')
    assert allowed_ids(grammar) == encode("abc")  # and not "a" or "ab", which spell the same
    assert grammar.num_matching(encode("ab")) == 0
    assert grammar.num_matching(encode('abc":true')) == 3


def test_the_end_of_the_text_is_allowed_where_the_output_matches() -> None:
    grammar = sequence_grammar(NUMBER)
    assert EOS_ID not in allowed_ids(grammar)
    grammar.advance(encode("1"), max_tokens=9)
    assert EOS_ID in allowed_ids(grammar)
    assert grammar.advance([EOS_ID], max_tokens=9) == [EOS_ID]
    assert grammar.is_complete


@pytest.mark.parametrize(
    ("text", "output"),
    [
        (NUMBER, [EOS_ID]),
        (NUMBER, encode("2a")),
        (OBJECT, [*encode('{"'), EOS_ID]),
        (OBJECT, encode('{"de')),
    ],
)
def test_what_does_not_match_is_an_error_and_no_completion(text: str, output: list[int]) -> None:
    grammar = sequence_grammar(text)
    with pytest.raises(GrammarError):
        grammar.advance(output, max_tokens=9)
    assert not grammar.is_complete


def test_a_matcher_that_failed_is_not_complete() -> None:
    grammar = sequence_grammar(NUMBER)
    assert not grammar.matcher.consume_token(encode("]")[0])
    assert grammar.matcher.is_stopped()  # as if it were complete, and its mask allows EOS
    assert not grammar.is_complete
    with pytest.raises(GrammarError):
        grammar.advance([EOS_ID], max_tokens=9)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    text=st.sampled_from(GRAMMARS),
    seed=st.integers(0, 50),
    cut=st.lists(st.integers(1, 5), min_size=40, max_size=40),
    draft=st.lists(st.integers(0, 39), max_size=5),
)
def test_appended_tokens_and_drafts_change_nothing(text: str, seed: int, cut: list[int], draft: list[int]) -> None:
    """The output is the same whatever part of it comes in one step, and whatever is looked at ahead."""
    request = make_request("r", [7], max_tokens=24, seed=seed, grammar=text)
    expected, _ = expected_output(request)
    grammar = sequence_grammar(text)
    output: list[int] = []
    for size in cut:
        if grammar.is_complete or len(output) == len(expected):
            break
        rest = expected[len(output) :]
        assert grammar.num_matching(rest[: rest.index(EOS_ID)] if EOS_ID in rest else rest) >= len(rest) - (
            EOS_ID in rest
        )
        num_matching = grammar.num_matching(draft)
        with grammar.following(draft) as matches:
            assert matches == (num_matching == len(draft) and EOS_ID not in draft)
        output += grammar.advance(rest[:size], max_tokens=24 - len(output))
        assert output == expected[: len(output)]
    assert output == expected


@settings(max_examples=40, deadline=None)
@given(text=st.sampled_from(GRAMMARS), choices=st.lists(st.integers(0, 1000), max_size=12))
def test_a_token_can_follow_if_a_mask_allows_it_and_it_is_no_end(text: str, choices: list[int]) -> None:
    grammar = sequence_grammar(text, appends_forced=False)
    for choice in choices:
        allowed = allowed_ids(grammar)
        assert [token_id for token_id in range(VOCAB_SIZE) if grammar.can_follow(token_id)] == [
            token_id for token_id in allowed if token_id != EOS_ID
        ]
        grammar.advance([allowed[choice % len(allowed)]], max_tokens=1)
        if grammar.is_complete:
            break


def test_the_given_grammars_force_and_choose() -> None:
    """The tests that use them depend on it."""
    requests = [
        make_request("r", [7], max_tokens=30, seed=seed, grammar=text) for text in GRAMMARS for seed in range(20)
    ]
    outputs = {tuple(expected_output(request)[0]) for request in requests}
    assert len(outputs) > len(requests) / 4
    assert sum(sequence_grammar(text).forced_next is not None for text in GRAMMARS) == 3


class Callback:
    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self) -> None:
        self.num_calls += 1


def test_who_waits_for_a_grammar_is_called_once_and_not_kept() -> None:
    """It holds the sequence, which holds the grammar: kept, each request would stay in memory until a collection."""
    grammar, callback = SequenceGrammar(frozenset([EOS_ID]), appends_forced=True), Callback()
    reference = weakref.ref(callback)
    grammar.when_ready(callback)
    grammar.start(ledger_vocabulary().matcher(OBJECT))
    assert callback.num_calls == 1
    del callback
    assert reference() is None


def test_nobody_waits_for_a_grammar_that_is_ready() -> None:
    grammar, callback = sequence_grammar(OBJECT), Callback()
    reference = weakref.ref(callback)
    grammar.when_ready(callback)
    assert callback.num_calls == 0
    del callback
    assert reference() is None
