"""The second turn of a long conversation computes what is new and at most one block, whatever the layers keep."""

from collections.abc import Sequence

import pytest
import torch

from engine.runner.kv_budget import STATES_PER_SEQUENCE
from engine.runner.kv_groups import kv_groups
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.kv.groups import peak_blocks
from models.architecture.attention import AttentionSpec
from models.architecture.recurrence import StateSpec
from models.attention.cpu import CpuAttention
from tests.engine.runner.test_kv_shapes import MODELS
from tests.helpers.checkpoints import cpu_compute
from tests.helpers.engines import SchedulerRun, half_right_draft, make_prompt, make_request
from tests.helpers.layer_kinds import LAYER_KINDS, spec_of

BLOCK_SIZE = 16
NUM_PROMPT, NUM_ANSWER, NUM_NEW = 4030, 34, 50  # the first two together are whole blocks, and the last is not computed
MAX_LEN = NUM_PROMPT + NUM_ANSWER + NUM_NEW + 1
REAL = ["Gemma 4 E2B", "MiMo-V2-Flash"]
# Positions in windows have half the bytes of those in full attention, or twice as many: docs/models.md.
UNITS = {"shared keys and values": 32, "windows of another shape": 32, **dict.fromkeys(REAL, 32)}
DRAFTED = ["windows", "windows of another shape", "state spaces"]


def mixers_of(name: str) -> Sequence[AttentionSpec | StateSpec]:
    if name in LAYER_KINDS:
        return spec_of(name).mixers
    return [
        AttentionSpec(heads, kv_heads, head_dim, 1.0, sliding_window=window)
        for count, heads, kv_heads, head_dim, window in MODELS[name]
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("name", "drafts"),
    [*((name, False) for name in (*LAYER_KINDS, *REAL)), *((name, True) for name in DRAFTED)],
)
def test_a_second_turn_computes_at_most_one_block_beyond_what_is_new(name: str, drafts: bool) -> None:
    """Two conversations at once, with memory to spare."""
    groups = kv_groups(cpu_compute(torch.bfloat16, CpuAttention()).cache_layout(mixers_of(name)), BLOCK_SIZE)
    has_states = any(group.is_state for group in groups)
    config = SchedulerConfig(
        num_blocks=6 * peak_blocks(groups, MAX_LEN) + 128,  # and two steps
        num_states=2 * STATES_PER_SEQUENCE if has_states else 0,
        kv_groups=groups,
        max_model_len=MAX_LEN,
        max_num_seqs=2,
        max_num_batched_tokens=512,
    )
    run = SchedulerRun(config, half_right_draft if drafts else None)
    prompts = {"a": make_prompt(NUM_PROMPT), "b": make_prompt(NUM_PROMPT, seed=1)}
    new = make_prompt(NUM_NEW, seed=2)

    requests = [make_request(id, prompt, max_tokens=NUM_ANSWER, ignore_eos=True) for id, prompt in prompts.items()]
    answers = run.run(requests).ids
    again = {f"{id} again": [*prompt, *answers[id], *new] for id, prompt in prompts.items()}
    transcript = run.run([make_request(id, tokens, max_tokens=1) for id, tokens in again.items()])

    beyond = [len(tokens) - transcript.last[id].num_cached_tokens - NUM_NEW for id, tokens in again.items()]
    assert min(beyond) > 0
    assert max(beyond) <= UNITS.get(name, BLOCK_SIZE)
