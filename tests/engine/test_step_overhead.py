"""How much Python a decode step runs for each sequence: counted in calls, which unlike time are the same everywhere."""

import pytest

from engine.config import EngineConfig
from engine.engine import Engine
from engine.scheduling.kv.groups import KVGroup
from engine.scheduling.plan import RowResult, StepPlan, StepResult
from engine.scheduling.sequence import Sequence
from tests.helpers.calls import num_calls
from tests.helpers.engines import make_prompt, make_request

pytestmark = pytest.mark.fast

BLOCK_SIZE = 64


class ConstantRunner:
    """Says the same token always, at no cost."""

    kv_groups = (KVGroup(BLOCK_SIZE),)
    copies_blocks = True

    def __init__(self, *, feeds: bool = False) -> None:
        self._feeds = feeds

    def launch(self, plan: StepPlan) -> StepPlan:
        return plan

    def can_feed(self, _: StepPlan) -> bool:
        return self._feeds

    def collect(self, pending: StepPlan) -> StepResult:
        return StepResult([RowResult([7]) for _ in pending.items])

    def release(self, sequence: Sequence) -> None:
        pass


def _num_calls_of_decode_step(num_sequences: int, *, feeds: bool = False) -> int:
    config = EngineConfig(max_model_len=BLOCK_SIZE, max_num_seqs=64, max_num_batched_tokens=1024, block_size=BLOCK_SIZE)
    engine = Engine(config, ConstantRunner(feeds=feeds), num_blocks=64, eos_token_ids=[])
    for number in range(num_sequences):
        engine.add(make_request(str(number), make_prompt(8, number), max_tokens=20))
    for _ in range(3):
        engine.step()
    return num_calls(engine.step)


def test_a_decode_step_makes_few_calls_for_each_sequence() -> None:
    few, many = 8, 32
    assert (_num_calls_of_decode_step(many) - _num_calls_of_decode_step(few)) / (many - few) < 45


def test_a_decode_step_that_is_planned_ahead_makes_fewer_calls() -> None:
    few, many = 8, 32
    calls = [_num_calls_of_decode_step(number, feeds=True) for number in (few, many)]
    assert (calls[1] - calls[0]) / (many - few) < 31


def _num_calls_while_a_request_waits_for_blocks(num_shared: int) -> int:
    """The waiting request shares `num_shared` blocks with the running one."""
    num_blocks = num_shared + 8
    config = EngineConfig(
        max_model_len=num_blocks * BLOCK_SIZE, max_num_seqs=8, max_num_batched_tokens=8192, block_size=BLOCK_SIZE
    )
    engine = Engine(config, ConstantRunner(), num_blocks=num_blocks, eos_token_ids=[])
    prompt = make_prompt(num_shared * BLOCK_SIZE)
    engine.add(make_request("running", prompt, max_tokens=70))
    engine.step()
    engine.add(make_request("waiting", prompt + make_prompt(BLOCK_SIZE * 7 + 1), max_tokens=1))
    engine.step()
    calls = num_calls(engine.step)
    assert engine.step().stats.waiting == 1
    return calls


def test_a_step_does_not_look_up_the_prefix_of_a_request_that_still_waits_for_blocks() -> None:
    assert _num_calls_while_a_request_waits_for_blocks(100) == _num_calls_while_a_request_waits_for_blocks(10)
