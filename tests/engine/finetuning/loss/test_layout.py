"""Layouts of passages: every trained token is predicted from the token before it, in its own passage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.command_io.finetuning.items import Passage
from engine.finetuning.loss.layout import lay_out

pytestmark = pytest.mark.fast

PROMPTS = ([5] * 3, list(range(10, 20)), list(range(10, 22)), [7] * 9)


@st.composite
def passages(draw: st.DrawFn) -> Passage:
    prompt = draw(st.sampled_from(PROMPTS))
    rest = draw(st.lists(st.integers(30, 99), min_size=1, max_size=6))
    ids = [*prompt, *rest]
    trained = [(len(prompt), len(prompt) + draw(st.integers(1, len(rest))))]
    if trained[0][1] + 1 < len(ids) and draw(st.booleans()):
        trained.append((trained[0][1] + 1, len(ids)))
    return Passage(ids, trained)


@given(st.lists(passages(), min_size=1, max_size=8), st.booleans())
def test_each_row_has_the_passages_tokens_up_to_the_one_before(items: list[Passage], shares: bool) -> None:
    layout = lay_out(items, shares=shares)

    seen: list[list[int]] = []  # what each row has before it and is
    for ids, prefix in zip(layout.sequences, layout.prefixes, strict=True):
        before = [] if prefix is None else list(layout.sequences[prefix])
        seen += [[*before, *ids[: place + 1]] for place in range(len(ids))]
    wanted = [item.ids[:place] for item in items for first, last in item.trained for place in range(first, last)]
    assert [seen[row] for row in layout.rows] == wanted
    assert layout.num_tokens == len(seen) <= sum(len(item.ids) for item in items)
    if not shares:
        assert layout.prefixes == [None] * len(items)


def test_a_prompt_of_several_passages_stands_once() -> None:
    prompt = PROMPTS[1]
    items = [Passage([*prompt, 40 + n], [(10, 11)]) for n in range(4)]

    layout = lay_out([*items, Passage([1, 2, 3], [(1, 3)])], shares=True)

    assert layout.num_tokens == 10 + 4 + 3
    assert layout.prefixes == [None, 0, 0, 0, 0, None]


def test_short_prompts_and_prompts_of_one_passage_stay_where_they_are() -> None:
    items = [Passage([*PROMPTS[0], 40 + n], [(3, 4)]) for n in range(4)]

    layout = lay_out([*items, Passage([*PROMPTS[1], 9], [(10, 11)])], shares=True)

    assert layout.prefixes == [None] * 5
