"""Larger blocks in a simulation: when they are chosen, what they leave as it is, and which are refused."""

import dataclasses

import pytest

from engine.errors import OptionError
from engine.scheduling.kv.groups import KVGroup
from engine.simulation.merged_blocks import merge_blocks
from engine.simulation.trace import TraceRequest
from tests.engine.simulation.test_fleet import MODEL, play

pytestmark = pytest.mark.fast

LARGE = dataclasses.replace(MODEL, num_blocks=8192, max_model_len=65_536)
WINDOWS = dataclasses.replace(LARGE, kv_groups=(KVGroup(16), KVGroup(16, 64)))
STATES = dataclasses.replace(LARGE, kv_groups=(KVGroup(16), KVGroup(16, is_state=True)), num_states=4)


def load(num_prompt: int, *, block_tokens: int = 512, is_shared: bool = True) -> list[TraceRequest]:
    return [TraceRequest(0.0, num_prompt, 10, (1,) if is_shared else (), block_tokens)]


@pytest.mark.parametrize(
    ("trace", "max_num_seqs", "size"),
    [
        (load(13_000), 1024, 256),  # (256 - 16) / 2 tokens are less than 1 % of a request
        (load(11_000), 1024, 128),
        (load(100), 1024, 16),
        (load(100), 8, 256),  # eight requests would leave 1 % of the KV cache empty
        (load(13_000, block_tokens=1000), 1024, 32),  # of which 992 are found, with these blocks too
        (load(13_000, block_tokens=1000, is_shared=False), 1024, 256),
    ],
)
def test_blocks_are_as_large_as_they_change_little(trace: list[TraceRequest], max_num_seqs: int, size: int) -> None:
    merged = merge_blocks(LARGE, trace, max_num_seqs, None)
    assert (merged.block_size, merged.kv_tokens) == (size, LARGE.kv_tokens)


@pytest.mark.parametrize("model", [WINDOWS, STATES])
def test_windows_and_states_keep_their_blocks(model: object) -> None:
    assert isinstance(model, type(LARGE))
    assert merge_blocks(model, load(13_000), 8, None).kv_groups == model.kv_groups
    with pytest.raises(OptionError, match="is 32, and the model has windows or recurrent states, whose blocks stay"):
        merge_blocks(model, load(13_000), 8, 32)


def test_the_longest_request_still_fits() -> None:
    tight = dataclasses.replace(LARGE, num_blocks=4099, max_model_len=4099 * 16)
    assert merge_blocks(tight, load(13_000), 8, None).block_size == 16
    with pytest.raises(OptionError, match="a request of 65,584 tokens does not fit in 2,049 such blocks"):
        merge_blocks(tight, load(13_000), 8, 32)


def test_given_blocks_are_whole_ones_of_the_server() -> None:
    assert merge_blocks(LARGE, load(100), 1024, 64).block_size == 64
    assert merge_blocks(LARGE, load(13_000), 8, 16) == LARGE
    for given in (8, 24):
        with pytest.raises(OptionError, match=f"is {given}; it must be a multiple of 16, the tokens of a block"):
            merge_blocks(LARGE, load(100), 8, given)


def test_larger_blocks_change_nothing_while_the_kv_cache_has_room() -> None:
    trace = [
        TraceRequest(90.0 * number, 300 + 17 * number, 5 + number, (number % 3, 9 + number), 256) for number in range(9)
    ]
    merged = merge_blocks(LARGE, trace, 8, None)
    assert merged.block_size == 256
    (_, fates), (_, exact) = play(trace, model=merged), play(trace, model=LARGE)
    assert fates == exact
    assert sum(fate.num_cached for fate in fates) > 0
