"""TorchRunner: runs step plans on a loaded model, on a CPU or a CUDA device."""

import math
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch

from engine.protocol import TokenLogprobs
from engine.runner.batch_builder import build_batch
from engine.runner.executors.choose import make_executor
from engine.runner.executors.executor import PendingForward
from engine.runner.kv_groups import kv_groups
from engine.runner.state_batch import StateSpan, accepted_states, state_spans
from engine.runner.step_work import model_work
from engine.sampling.device import DeviceSampler, PendingTokens
from engine.sampling.logprobs import token_logprobs
from engine.sampling.masks_ahead import PendingMasks
from engine.sampling.rows import LogitsRow, rows_of_plan
from engine.sampling.sampler import Sampler, corrupted
from engine.scheduling.kv.moves import BlockLoad, BlockSave
from engine.scheduling.plan import PlanItem, RowResult, StepPlan, StepResult, StepWork
from engine.scheduling.sequence import Sequence
from models.batch import ForwardBatch
from models.errors import ModelError
from models.kv.block_copy import BlockCopy
from models.kv.layer import LayerState
from models.loaded_model import LoadedModel, ModelDecoder
from models.system.cuda import naming_faults, staged
from models.system.cuda_graphs import CudaGraphs

_DECAY = 0.99  # of the load, a step: a few hundred steps count

# Rows of prompt logits that are in memory together: with a vocabulary of 152k each takes 0.6 MB.
_PROMPT_LOGIT_ROWS = 128


class _PromptRows(NamedTuple):
    """One plan item's part in a step that computes prompt log probabilities.

    num_top: number of top tokens to report; None if this request wants no prompt log probabilities. targets: the prompt
    tokens that the rows predict.
    """

    num_rows: int
    num_top: int | None
    targets: list[int]
    adapter_slots: torch.Tensor | None


class PendingStep(NamedTuple):
    """A step whose forward pass was launched. logits: [L, V] fp32, one for each of `rows`; None if the device samples
    their `tokens`, or without rows.

    unseen_states: plan items without logits, which would show states that are not finite, and each one's blocks of
    states after the step, by state group.
    """

    plan: StepPlan
    forward: PendingForward
    rows: list[LogitsRow]
    logits: torch.Tensor | None
    tokens: PendingTokens | None
    masks: PendingMasks
    prompts: list[_PromptRows] | None
    state_spans: list[list[StateSpan]]
    unseen_states: list[tuple[int, list[int]]]
    work: StepWork | None


class TorchRunner:
    """Runs forward passes and samples. Owns KV tensors and sampling state; the scheduler decides what blocks hold."""

    def __init__(
        self,
        model: LoadedModel,
        *,
        num_blocks: int,
        block_size: int,
        num_states: int = 0,
        draft_probs: Mapping[str, torch.Tensor] | None = None,
        graphs: CudaGraphs | None = None,
    ) -> None:
        """draft_probs: the distributions of the step's drafts, [k, V], by sequence id; updated by the caller. graphs:
        of the device, if it has any."""
        self._model = model
        self.kv_groups = kv_groups(model.cache_layout, block_size)
        self._state_groups = [index for index, group in enumerate(self.kv_groups) if group.is_state]
        self._kv = model.cache_layout.allocate(num_blocks, block_size, model.device, num_states=num_states)
        self._block_size = block_size
        self._block_copy: BlockCopy | None = None
        self.copies_blocks = self._can_copy()
        self._executor = make_executor(model, self._kv, self.kv_groups, graphs)
        self._expert_load = ExpertLoad(model.decoder)
        self._draft_probs = {} if draft_probs is None else draft_probs
        self.work = model_work(model)
        self._sampler = Sampler(model.tokenizer.eos_token_ids, model.device)
        self._device_sampler = (
            None if graphs is None else DeviceSampler(model.vocab_size, model.device, self._sampler.logit_ops)
        )
        self._last_ids: torch.Tensor | None = None  # tokens of the last step launched, [L] int64, on the device
        self._num_pending = 0  # steps launched and not collected

    @property
    def decoder(self) -> ModelDecoder:
        return self._model.decoder

    @property
    def position_cost(self) -> float:
        """FLOPs that each context position adds to a prompt token, over the token's other FLOPs; 0 if unknown."""
        return 0.0 if self.work is None else self.work.position_cost

    @property
    def row_cost(self) -> float:
        """FLOPs of a row of logits, over the FLOPs of a prompt token; 0 if unknown."""
        return 0.0 if self.work is None else self.work.row_cost

    def decode_sizes(self, max_sequences: int) -> list[int]:
        """Return the sizes of decode steps that the warm-up should run, the largest first."""
        sizes = self._executor.decode_sizes
        return [size for size, smaller in zip(sizes, (0, *sizes), strict=False) if smaller < max_sequences][::-1]

    def release(self, sequence: Sequence) -> None:
        self._sampler.release(sequence.id)
        if self._device_sampler is not None:
            self._device_sampler.release(sequence.id)

    @property
    def block_bytes(self) -> tuple[int, ...]:
        return self._copy.block_bytes

    @property
    def _copy(self) -> BlockCopy:
        """Copies of blocks. Raises ModelError if the cache's layout does not allow them."""
        if self._block_copy is None:
            self._block_copy = BlockCopy(self._model.cache_layout, self._kv, self._block_size)
        return self._block_copy

    def _can_copy(self) -> bool:
        try:
            return bool(self._copy.block_bytes)
        except ModelError:
            return False

    def save(self, saves: list[BlockSave]) -> list[bytes]:
        with naming_faults(self._model.device):
            return [self._copy.read(group, block) for group, block, _ in saves]

    @torch.inference_mode()
    def load(self, loads: list[BlockLoad]) -> None:
        with naming_faults(self._model.device):
            for group, block, content in loads:
                self._copy.write(group, block, content)

    def launch(self, plan: StepPlan) -> PendingStep:
        with naming_faults(self._model.device):
            pending = self._launch(plan)
        self._last_ids = None if pending.tokens is None else pending.tokens.ids
        self._num_pending += 1
        return pending

    def can_feed(self, pending: PendingStep) -> bool:
        tokens = pending.tokens
        return tokens is not None and not tokens.must_be_read and pending.prompts is None

    def collect(self, pending: PendingStep) -> StepResult:
        self._num_pending -= 1
        with naming_faults(self._model.device):
            return self._collect(pending)

    @torch.inference_mode()
    def _launch(self, plan: StepPlan) -> PendingStep:
        if plan.copies:
            self._copy.copy(plan.copies)
        batch = build_batch(plan, self.kv_groups, self._model.device, self._executor.buffers)
        if plan.token_rows is not None:
            batch.token_ids.copy_(self._tokens_of(plan.token_rows))
        # Rows of a prompt are needed if their log probabilities are requested.
        needs_all_rows = any(item.sequence.request.sampling.prompt_logprobs is not None for item in plan.items)
        rows = rows_of_plan(plan)
        grammars, samples_on_device = self._sampler.masks, self._device_sampler is not None
        masks = grammars.start(rows, self._model.vocab_size, needs_all=samples_on_device)
        try:
            forward = self._executor.launch(batch, None if needs_all_rows else batch.logit_rows)
            logits = tokens = None
            if rows:
                slots = None if batch.adapter_slots is None else batch.adapter_slots[batch.logit_rows]
                hidden = forward.hidden[batch.logit_rows] if needs_all_rows else forward.hidden
                logits = self._model.decoder.logits(hidden, slots)
                if self._device_sampler is not None:
                    tokens = self._device_sampler.launch(
                        logits, rows, lambda: grammars.take(masks), drawn_drafts=self._draft_probs
                    )
                logits = None if tokens is not None else logits
        except BaseException:
            masks.wait()  # the grammars are used again
            raise
        prompts = _prompts(plan, batch) if needs_all_rows else None
        work = None if self.work is None else self.work.of(plan)
        spans, unseen = self._speculative_spans(plan), self._unseen_states(plan)
        return PendingStep(plan, forward, rows, logits, tokens, masks, prompts, spans, unseen, work)

    def _tokens_of(self, rows: list[int]) -> torch.Tensor:
        """Return the tokens that the last step samples in these rows, without reading them: [n] int64."""
        ids = self._last_ids
        assert ids is not None, "the host samples the last step's tokens"
        if len(rows) == len(ids):
            return ids  # all rows, in order: no sequence has ended
        return ids[staged(torch.tensor(rows), ids.device).to(ids.device, non_blocking=True)]

    @torch.inference_mode()
    def _collect(self, pending: PendingStep) -> StepResult:
        sampled: Iterator[RowResult] = iter(())
        sample_s = 0.0
        try:
            hidden = self._executor.collect(pending.forward)
            if pending.rows:
                began_s = time.perf_counter()
                sampled = iter(self._sampled(pending))
                sample_s = time.perf_counter() - began_s
        finally:
            pending.masks.wait()
        rows = [next(sampled) if item.needs_logits else RowResult([]) for item in pending.plan.items]
        if pending.prompts is not None:
            rows = self._with_prompt_logprobs(pending.prompts, rows, hidden)
        for index, blocks in pending.unseen_states:
            if not self._are_finite(blocks):
                rows[index] = corrupted()
        self._commit_accepted_states(pending.state_spans, rows)
        # Rows of experts are counted on the device, where a step launched later would be waited for.
        load = self._expert_load.take() if not self._num_pending else ([], self._expert_load.imbalance)
        counts = (*load, *self._sampler.masks.take_tally())
        return StepResult(rows, pending.forward.is_representative, *counts, sample_s=sample_s, work=pending.work)

    def _sampled(self, pending: PendingStep) -> list[RowResult]:
        """Wait for the device; return the results of the step's logits."""
        if pending.tokens is not None:
            return pending.tokens.read()
        assert pending.logits is not None
        return self._sampler.sample(pending.logits, pending.rows, self._draft_probs, pending.masks)

    def _speculative_spans(self, plan: StepPlan) -> list[list[StateSpan]]:
        """Return the plan's state spans for each group of recurrent layers; empty if no sequence has a draft."""
        if not self._state_groups or not any(item.num_draft for item in plan.items):
            return []
        return [state_spans(plan, index, self.kv_groups[index].block_size) for index in self._state_groups]

    def _unseen_states(self, plan: StepPlan) -> list[tuple[int, list[int]]]:
        return [
            (number, [self._last_block(item, index) for index in self._state_groups])
            for number, item in enumerate(plan.items)
            if self._state_groups and not item.needs_logits
        ]

    def _last_block(self, item: PlanItem, group: int) -> int:
        """Return the block of the state after an item's rows."""
        return item.sequence.tables[group][(item.end - 1) // self.kv_groups[group].block_size]

    def _are_finite(self, blocks: list[int]) -> bool:
        """Whether a sequence's states are finite, by the states of the last recurrent layer, to which the rows of all
        others lead. blocks: one for each state group."""
        layers = [self._model.cache_layout.groups[index].layers[-1] for index in self._state_groups]
        states = [self._kv[layer] for layer in layers]
        return all(
            math.isfinite(value)
            for state, block in zip(states, blocks, strict=True)
            if isinstance(state, LayerState)
            for value in torch.stack(state.parts[-1][block].aminmax()).tolist()
        )

    def _commit_accepted_states(self, spans: list[list[StateSpan]], rows: list[RowResult]) -> None:
        """Write the recurrent states after the accepted tokens of sequences with drafts."""
        for index, of_group in zip(self._state_groups, spans, strict=False):
            block_size = self.kv_groups[index].block_size
            accepted = accepted_states(of_group, rows, block_size, self._model.device)
            if accepted is not None:
                self._model.decoder.commit_states(*accepted, self._kv)

    def end_warm_up(self) -> None:
        """Reset the statistics that the warm-up has produced."""
        self._expert_load.reset()

    def _with_prompt_logprobs(
        self, prompts: list[_PromptRows], rows: list[RowResult], hidden: torch.Tensor
    ) -> list[RowResult]:
        """Return the results with prompt log probabilities added. hidden: [T, hidden], for all rows of the step."""
        result = []
        end = 0
        for prompt, row in zip(prompts, rows, strict=True):
            start, end = end, end + prompt.num_rows
            entries = self._prompt_logprobs(prompt, hidden[start:end])
            is_finite = all(math.isfinite(entry.logprob) for entry in entries or ())
            result.append(row._replace(prompt_logprobs=entries) if is_finite else corrupted())
        return result

    def _prompt_logprobs(self, prompt: _PromptRows, hidden: torch.Tensor) -> list[TokenLogprobs] | None:
        """Return the log probabilities of an item's targets; None if not requested. hidden: [num_rows, hidden]."""
        if prompt.num_top is None:
            return None
        result: list[TokenLogprobs] = []
        for start in range(0, len(prompt.targets), _PROMPT_LOGIT_ROWS):
            targets = prompt.targets[start : start + _PROMPT_LOGIT_ROWS]
            end = start + len(targets)
            self._model.decoder.on_progress()
            slots = None if prompt.adapter_slots is None else prompt.adapter_slots[start:end]
            logits = self._model.decoder.logits(hidden[start:end], slots)
            num_top = [prompt.num_top] * len(targets)
            result += token_logprobs(self._sampler.logit_ops, logits, targets, num_top, with_ranks=True)
        return result


def _prompts(plan: StepPlan, batch: ForwardBatch) -> list[_PromptRows]:
    prompts = []
    end = 0
    for item in plan.items:
        sequence = item.sequence
        start, end = end, end + item.num_new
        first = item.start + 1  # the position that the first row predicts
        targets = sequence.tokens[first : min(first + item.num_new, sequence.num_prompt)]
        slots = None if batch.adapter_slots is None else batch.adapter_slots[start:end]
        prompts.append(_PromptRows(item.num_new, sequence.request.sampling.prompt_logprobs, targets, slots))
    return prompts


class ExpertLoad:
    """Statistics of an MoE decoder: rows computed by each expert, and the recent load imbalance."""

    def __init__(self, decoder: ModelDecoder) -> None:
        self._decoder = decoder
        self._num_experts = torch.tensor(decoder.num_experts, dtype=torch.float64)  # [layers with experts]
        self._recent = torch.zeros(decoder.take_rows_per_expert().shape, dtype=torch.float64)
        self.imbalance: float | None = None  # that `take` returned last

    def take(self) -> tuple[list[int], float | None]:
        """Return the rows per expert since the last call, summed over layers, and the recent load imbalance: the
        busiest expert's rows over the mean per expert, averaged over layers (1 is even); None without experts."""
        if not self._decoder.num_experts:
            return [], None
        rows = self._decoder.take_rows_per_expert()
        self._recent.mul_(_DECAY).add_(rows)
        busiest, all_of_layer = self._recent.amax(dim=1), self._recent.sum(dim=1)
        self.imbalance = (busiest * self._num_experts / all_of_layer).mean().item()
        return rows.sum(dim=0).tolist(), self.imbalance

    def reset(self) -> None:
        self._decoder.take_rows_per_expert()
        self._recent.zero_()
