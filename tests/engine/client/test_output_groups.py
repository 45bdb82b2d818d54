"""OutputGroups: fewer messages, and the same tokens and ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.client.output_groups import OutputGroups
from engine.protocol import FinishReason, RequestOutput
from tests.helpers.engines import make_request

pytestmark = pytest.mark.fast


def _groups(**sizes: int) -> OutputGroups:
    groups = OutputGroups()
    for name, size in sizes.items():
        groups.add(make_request(name, [1], tokens_per_output=size))
    return groups


def test_tokens_after_the_first_wait_until_they_are_enough() -> None:
    groups = _groups(line=3, client=1)
    sent = [
        groups.pass_on([RequestOutput(id="line", new_ids=[number]), RequestOutput(id="client", new_ids=[number])])
        for number in range(5)
    ]
    assert [[output.new_ids for output in each if output.id == "line"] for each in sent] == [
        [[0]],
        [],
        [],
        [[1, 2, 3]],
        [],
    ]
    assert [[output.new_ids for output in each if output.id == "client"] for each in sent] == [
        [[number]] for number in range(5)
    ]


def test_an_end_brings_what_was_kept() -> None:
    groups = _groups(line=9)
    first = RequestOutput(id="line", new_ids=[1], queue_s=0.5, num_cached_tokens=4)
    assert groups.pass_on([first]) == [first]
    assert groups.pass_on([RequestOutput(id="line", new_ids=[2], preempted_s=[1.5], num_cached_tokens=4)]) == []
    (last,) = groups.pass_on([RequestOutput(id="line", finish_reason=FinishReason.ABORT, num_cached_tokens=4)])
    assert (last.new_ids, last.preempted_s, last.finish_reason) == ([2], [1.5], FinishReason.ABORT)
    groups.check()


def test_progress_of_the_prompt_is_not_kept() -> None:
    groups = _groups(line=9)
    progress = [RequestOutput(id="line", num_prompt_computed=number) for number in (16, 32)]
    assert [groups.pass_on([each]) for each in progress] == [[each] for each in progress]
    groups.check()


def test_an_unknown_request_passes() -> None:
    groups = _groups(line=9)
    replay = RequestOutput(id="other", new_ids=[1])
    assert groups.pass_on([replay]) == [replay]


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 5), min_size=1),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans()), max_size=40),
)
def test_each_request_has_all_its_tokens_in_order_and_one_end(
    sizes: dict[str, int], steps: list[tuple[str, int, bool]]
) -> None:
    groups, number = _groups(**sizes), 0
    open_ids = set(sizes)
    given_ids: dict[str, list[int]] = {name: [] for name in sizes}
    sent: dict[str, list[RequestOutput]] = {name: [] for name in sizes}
    for name, num_tokens, is_end in [*steps, *((name, 0, True) for name in sizes)]:
        if name not in open_ids or not (num_tokens or is_end):
            continue
        new_ids = list(range(number, number + num_tokens))
        number += num_tokens
        given_ids[name] += new_ids
        reason = FinishReason.STOP if is_end else None
        for output in groups.pass_on([RequestOutput(id=name, new_ids=new_ids, finish_reason=reason)]):
            sent[output.id].append(output)
        groups.check()
        if is_end:
            open_ids.remove(name)
    for name, size in sizes.items():
        assert [token for output in sent[name] for token in output.new_ids] == given_ids[name]
        assert [output.finish_reason for output in sent[name]][-1] is FinishReason.STOP
        assert all(len(output.new_ids) >= size for output in sent[name][1:-1])
