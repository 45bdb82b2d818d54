"""Python's time in a decode step, by the length of the sequences' contexts, without a model.

    .venv/bin/python -m benchmarks.scheduling.step_python
    .venv/bin/python -m benchmarks.scheduling.step_python --case waiting penalties --sequences 1

The engine, its scheduler, batches, sampler and drafts are real; instead of a forward pass, every row gets the same
random logits over a small vocabulary. Times are processor times of this process, medians over the steps.
"""

import argparse
import random
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from engine.commands.bench.processor import processor_name
from engine.config import EngineConfig
from engine.engine import Engine
from engine.protocol import EngineRequest, SamplingParams
from engine.runner.batch_buffers import BatchBuffers
from engine.runner.batch_builder import build_batch
from engine.runner.block_tables import BlockTables
from engine.sampling.rows import LogitsRow, rows_of_plan
from engine.sampling.sampler import Sampler
from engine.scheduling.kv.groups import KVGroup
from engine.scheduling.plan import RowResult, StepPlan, StepResult
from engine.scheduling.sequence import Sequence
from engine.speculation.ngram import MAX_INDEXED_PER_STEP, NgramProposer
from engine.speculation.settings import AUTO_TOKENS
from engine.speculation.speculator import Speculator

_BLOCK_SIZE, _MAX_ROWS, _VOCAB_SIZE = 16, 256, 512
_CHUNK = 8192  # tokens of prompts in a step
_FOREVER = 4096  # tokens of output
_FIRST_STEPS = 16  # of decoding, which are not measured


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of requests. windows: of the model's KV groups. num_waiting: longer requests, which wait for blocks.
    is_shared: these continue the prompt of the first. is_ahead: steps are planned ahead, as on a GPU."""

    what: str
    windows: tuple[int | None, ...] = (None,)
    sampling: dict[str, Any] = field(default_factory=dict)
    is_drafted: bool = False
    num_waiting: int = 0
    is_shared: bool = False
    is_ahead: bool = False


CASES = {
    "plain": Case("full attention"),
    "ahead": Case("full attention, each step launched before the one before it is collected", is_ahead=True),
    "windows": Case("full attention, and windows of 1,024 tokens", (None, 1024)),
    "penalties": Case(
        "the three penalties", sampling={"repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.5}
    ),
    "drafts": Case("prompt lookup", is_drafted=True),
    "waiting": Case("a request waits for blocks", num_waiting=1),
    "sharing": Case("a request that shares a running one's prompt waits for blocks", num_waiting=1, is_shared=True),
    "drafts-sharing": Case("the same, with prompt lookup", is_drafted=True, num_waiting=1, is_shared=True),
}


class LogitsRunner:
    """A Runner that builds batches and samples as TorchRunner does, from logits that do not depend on the batch."""

    def __init__(self, groups: tuple[KVGroup, ...], max_len: int, *, is_ahead: bool = False) -> None:
        self.kv_groups = groups
        self._is_ahead = is_ahead
        self.copies_blocks = False
        tables = BlockTables(groups, _MAX_ROWS, -(-max_len // _BLOCK_SIZE))
        self._buffers = BatchBuffers(_MAX_ROWS, tables)
        self._logits = torch.randn(1021, _VOCAB_SIZE, generator=torch.Generator().manual_seed(0))
        self._sampler = Sampler([])
        self._num_steps = 0
        self.batch_s = 0.0  # of the last step's batch

    def launch(self, plan: StepPlan) -> tuple[StepPlan, list[LogitsRow]]:
        began_s = time.process_time()
        build_batch(plan, self.kv_groups, torch.device("cpu"), self._buffers)
        self.batch_s = time.process_time() - began_s
        return plan, rows_of_plan(plan)

    def can_feed(self, _: tuple[StepPlan, list[LogitsRow]]) -> bool:
        return self._is_ahead

    @torch.inference_mode()
    def collect(self, pending: tuple[StepPlan, list[LogitsRow]]) -> StepResult:
        plan, rows = pending
        self._num_steps += 1
        first = self._num_steps * 31 % (len(self._logits) - len(rows))
        logits = self._logits[first : first + len(rows)].clone()
        sampled = iter(self._sampler.sample(logits, rows) if rows else [])
        results = [next(sampled) if item.needs_logits else RowResult([]) for item in plan.items]
        return StepResult(results)

    def release(self, sequence: Sequence) -> None:
        self._sampler.release(sequence.id)


def measure(case: Case, num_sequences: int, context: int, num_steps: int) -> tuple[float, float]:
    """Return the microseconds of a decode step, and of building its batch."""
    groups = tuple(KVGroup(_BLOCK_SIZE, window) for window in case.windows)
    runner = LogitsRunner(groups, context + 2 * _FOREVER, is_ahead=case.is_ahead)
    engine = _engine(case, runner, num_sequences, context, num_steps)
    for number in range(num_sequences):
        engine.add(_request(case, number, context, _FOREVER, seed=number))
    started: set[str] = set()
    while len(started) < num_sequences:
        started |= {each.id for each in engine.step().outputs if each.new_ids}
    for number in range(num_sequences, num_sequences + case.num_waiting):
        seed = 0 if case.is_shared else number
        engine.add(_request(case, number, context + 2 * _FOREVER - 1, 1, seed))
    # Prompt lookup indexes a part of the prompts in each step.
    for _ in range(_FIRST_STEPS + (num_sequences * context // MAX_INDEXED_PER_STEP if case.is_drafted else 0)):
        engine.step()
    steps_s, batches_s = [], []
    for _ in range(num_steps):
        began_s = time.process_time()
        stats = engine.step().stats
        steps_s.append(time.process_time() - began_s)
        batches_s.append(runner.batch_s)
        assert stats.decode_tokens >= num_sequences
        assert stats.waiting == case.num_waiting
    return statistics.median(steps_s) * 1e6, statistics.median(batches_s) * 1e6


def _engine(case: Case, runner: LogitsRunner, num_sequences: int, context: int, num_steps: int) -> Engine:
    max_len = context + 2 * _FOREVER
    # Those that run generate a token in each step, also while the last prompts are computed. One that waits never fits.
    num_generated = num_steps + 2 * _FIRST_STEPS + -(-num_sequences * context // _CHUNK)
    num_tokens = num_sequences * context + max(2 * _FOREVER, num_sequences * num_generated)
    num_blocks = -(-num_tokens // _BLOCK_SIZE) * len(case.windows)
    return Engine(
        EngineConfig(max_model_len=max_len, max_num_batched_tokens=_CHUNK, max_num_seqs=_MAX_ROWS),
        runner,
        num_blocks=num_blocks,
        eos_token_ids=[],
        speculator=Speculator(AUTO_TOKENS, lookups=[NgramProposer()] if case.is_drafted else ()),
    )


def _request(case: Case, number: int, num_prompt: int, max_tokens: int, seed: int) -> EngineRequest:
    """Return a request with a random prompt; those with the same seed begin with the same tokens."""
    prompt_ids = random.Random(seed).choices(range(_VOCAB_SIZE), k=num_prompt)
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True, **case.sampling)
    return EngineRequest(id=str(number), prompt_ids=prompt_ids, sampling=sampling, arrival_s=0.0)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.scheduling.step_python", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--sequences", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--contexts", nargs="+", type=int, default=[1000, 32_000, 131_000], help="in tokens")
    parser.add_argument("--steps", type=int, default=64, help="that are measured")
    options = parser.parse_args()
    sys.stdout.write(f"{processor_name()}; microseconds of a decode step\n")
    for name in options.case:
        sys.stdout.write(f"{name}: {CASES[name].what}\n")
        for num_sequences in options.sequences:
            for context in options.contexts:
                step_us, batch_us = measure(CASES[name], num_sequences, context, options.steps)
                sys.stdout.write(
                    f"  {num_sequences} at {context:,}: {step_us:,.0f}, of which batch {batch_us:,.0f};"
                    f" {step_us / num_sequences:,.1f} a sequence\n"
                )
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
