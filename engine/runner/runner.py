"""TorchRunner: executes step plans with a loaded model, on a CPU or a CUDA device."""

import math
import time
from collections.abc import Iterator, Mapping

import torch

from engine.protocol import TokenLogprobs
from engine.runner.batch_builder import build_batch
from engine.runner.executors.recorded import recorded_layers
from engine.runner.expert_load import ExpertLoad
from engine.runner.kv_groups import kv_groups
from engine.runner.state_batch import StateSpan, accepted_states, state_spans
from engine.runner.step_work import model_work
from engine.sampling.logprobs import token_logprobs
from engine.sampling.rows import rows_of_plan
from engine.sampling.sampler import Sampler, corrupted
from engine.scheduling.plan import PlanItem, RowResult, StepPlan, StepResult
from engine.scheduling.sequence import Sequence
from models.decoder import Decoder
from models.kv_cache import allocate_kv
from models.loaded_model import LoadedModel

# Rows of prompt logits in memory at once: with a vocabulary of 152k each takes 0.6 MB.
_PROMPT_LOGIT_ROWS = 128


class TorchRunner:
    """Owns the KV tensors and the sampler's state. Blocks' contents are the scheduler's business."""

    def __init__(
        self,
        model: LoadedModel,
        *,
        num_blocks: int,
        block_size: int,
        num_states: int = 0,
        draft_probs: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """draft_probs: what drafts of the current step were drawn from, as Sampler.sample takes it."""
        self._model = model
        self._block_size = block_size
        self.kv_groups = kv_groups(model.layer_groups, block_size)
        self._state_groups = [index for index, group in enumerate(self.kv_groups) if group.is_state]
        self._kv = allocate_kv(model, num_blocks, block_size, num_states=num_states)
        self._recorded = recorded_layers(model, self._kv, block_size)
        self._batch_buffers = None if self._recorded is None else self._recorded.buffers
        self._expert_load = ExpertLoad(model.decoder)
        self._draft_probs = {} if draft_probs is None else draft_probs
        self._work = model_work(model)
        self._sampler = Sampler(model.tokenizer.eos_token_ids)

    @property
    def decoder(self) -> Decoder:
        return self._model.decoder

    @property
    def position_cost(self) -> float:
        """What each position before a prompt's token adds to its time, relative to the token itself, as far as
        operations tell; 0 is unknown."""
        return 0.0 if self._work is None else self._work.position_cost

    def release(self, sequence: Sequence) -> None:
        self._sampler.release(sequence.id)

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> StepResult:
        """Compute all rows of the plan in one forward pass and sample where a sequence reached its end."""
        batch = build_batch(plan, self.kv_groups, self._model.device, self._batch_buffers)
        spans = self._speculative_spans(plan)
        decoder = self._model.decoder
        # Rows of a prompt are needed if their log probabilities are requested.
        needs_all_rows = any(item.sequence.request.sampling.prompt_logprobs is not None for item in plan.items)
        output_rows = None if needs_all_rows else batch.logit_rows
        logit_rows = rows_of_plan(plan)
        sampled: Iterator[RowResult] = iter(())
        sample_s = 0.0
        masks = self._sampler.start_masks(logit_rows, self._model.vocab_size)
        try:
            if self._recorded is None:
                hidden = decoder(batch, self._kv, output_rows)
            else:
                hidden = self._recorded(batch, output_rows)
            if logit_rows:
                slots = None if batch.adapter_slots is None else batch.adapter_slots[batch.logit_rows]
                logits = decoder.logits(hidden[batch.logit_rows] if needs_all_rows else hidden, slots)  # [L, V] fp32
                began_s = time.perf_counter()
                sampled = iter(self._sampler.sample(logits, logit_rows, self._draft_probs, masks))
                sample_s = time.perf_counter() - began_s
        finally:
            masks.wait()  # the grammars go on being used, also if the model's pass failed
        rows = [next(sampled) if item.needs_logits else RowResult([]) for item in plan.items]
        if needs_all_rows:
            rows = self._with_prompt_logprobs(plan.items, rows, hidden)
        self._commit_accepted_states(spans, rows)
        is_representative = self._recorded is None or not self._recorded.has_just_recorded
        counts = (*self._expert_load.take(), *self._sampler.take_mask_tally())
        work = None if self._work is None else self._work.of(plan)
        return StepResult(rows, is_representative, *counts, sample_s=sample_s, work=work)

    def _speculative_spans(self, plan: StepPlan) -> list[list[StateSpan]]:
        """The plan's rows for each state group, if a sequence has a draft."""
        if not self._state_groups or not any(item.num_draft for item in plan.items):
            return []
        return [state_spans(plan, index, self._block_size) for index in self._state_groups]

    def _commit_accepted_states(self, spans: list[list[StateSpan]], rows: list[RowResult]) -> None:
        """Write the recurrent states of sequences with a draft, now that it is known how much of it is accepted."""
        for of_group in spans:
            accepted = accepted_states(of_group, rows, self._block_size, self._model.device)
            if accepted is not None:
                self._model.decoder.commit_states(accepted.rows, accepted.group, self._kv)

    def end_warm_up(self) -> None:
        """Reset the counts, which include the throw-away sequences."""
        self._expert_load.reset()

    def _with_prompt_logprobs(
        self, items: list[PlanItem], rows: list[RowResult], hidden: torch.Tensor
    ) -> list[RowResult]:
        """The results with the requested log probabilities of prompts. hidden: [T, hidden], of all rows of the step."""
        result = []
        end = 0
        for item, row in zip(items, rows, strict=True):
            start, end = end, end + item.num_new
            entries = self._prompt_logprobs(item, hidden[start:end])
            is_finite = all(math.isfinite(entry.logprob) for entry in entries or ())
            result.append(row._replace(prompt_logprobs=entries) if is_finite else corrupted())
        return result

    def _prompt_logprobs(self, item: PlanItem, hidden: torch.Tensor) -> list[TokenLogprobs] | None:
        """Log probabilities of the prompt tokens that follow this item's rows. hidden: [num_new, hidden]."""
        sequence = item.sequence
        num_top = sequence.request.sampling.prompt_logprobs
        if num_top is None:
            return None
        first = item.start + 1  # the position that the first row predicts
        targets = sequence.tokens[first : min(first + item.num_new, sequence.num_prompt)]
        result: list[TokenLogprobs] = []
        for start in range(0, len(targets), _PROMPT_LOGIT_ROWS):
            chunk = targets[start : start + _PROMPT_LOGIT_ROWS]
            self._model.decoder.on_progress()
            rows = hidden[start : start + len(chunk)]
            logits = self._model.decoder.logits(rows, _slots_of(sequence, rows))
            result += token_logprobs(logits, chunk, [num_top] * len(chunk), with_ranks=True)
        return result


def _slots_of(sequence: Sequence, rows: torch.Tensor) -> torch.Tensor | None:
    """The adapter slots of a sequence's rows, as Decoder.logits takes them."""
    if sequence.adapter_slot < 0:
        return None
    return torch.full((len(rows),), sequence.adapter_slot, dtype=torch.int32, device=rows.device)
