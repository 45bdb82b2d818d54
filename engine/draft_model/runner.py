"""TorchDraftRunner: runs plans of the draft model on an executor of its own, with a KV cache over the target's block
ids."""

import torch

from engine.config import DraftSampling
from engine.draft_model.model import NextTokens
from engine.runner.batch_builder import build_batch
from engine.runner.executors.choose import make_executor
from engine.sampling.distribution import probabilities
from engine.sampling.draw import Purpose, uniform
from engine.sampling.logit_edits import LogitEditor
from engine.sampling.rows import LogitsRow, row_of
from engine.scheduling.kv.groups import KVGroup
from engine.scheduling.plan import PlanItem, StepPlan
from engine.scheduling.sequence import Sequence
from models.kernels.ops import select_operations
from models.kernels.torch.draw import draw
from models.loaded_model import LoadedModel


class TorchDraftRunner:
    """A DraftRunner on a loaded model. Drafted tokens go through the same sampling steps as the target's."""

    def __init__(
        self,
        model: LoadedModel,
        *,
        num_blocks: int,
        block_size: int,
        target_vocab_size: int,
        eos_token_ids: list[int],
        sampling: DraftSampling,
    ) -> None:
        """target_vocab_size: width of the target's logits, which may differ from the draft model's. eos_token_ids: the
        target's EOS tokens."""
        self._model = model
        self._groups = (KVGroup(block_size),) * len(model.cache_layout.groups)  # no group frees blocks out of a window
        self._target_vocab_size = target_vocab_size
        self._sampling = sampling
        self._executor = make_executor(
            model, model.cache_layout.allocate_unshared(num_blocks, block_size, model.device), self._groups
        )
        self._logit_ops = select_operations(torch.float32, model.device).logits()
        self._editor = LogitEditor(eos_token_ids, self._logit_ops)
        self.num_tables = len(self._groups)

    @torch.inference_mode()
    def next_tokens(self, plan: StepPlan) -> NextTokens:
        batch = build_batch(plan, self._groups, self._model.device, self._executor.buffers, has_adapters=False)
        pending = self._executor.launch(batch, batch.logit_rows)
        hidden = self._executor.collect(pending)
        rows = [_last_row(item) for item in plan.items if item.needs_logits]
        if not rows:
            return NextTokens([], [], [], pending.is_representative)
        logits = self._at_target_width(self._model.decoder.logits(hidden))
        self._editor.edit(logits, rows)
        best_values, chosen = self._logit_ops.best_ids(logits)
        is_finite = torch.isfinite(best_values).tolist()
        token_ids = [token_id if ok else None for token_id, ok in zip(chosen.tolist(), is_finite, strict=True)]
        confidences = self._logit_ops.top1_probs(logits, best_values).tolist()
        distributions: list[torch.Tensor | None] = [None] * len(rows)
        sampled = [index for index, row in enumerate(rows) if is_finite[index] and self._is_sampled(row)]
        if sampled:
            sampled_rows = [rows[index] for index in sampled]
            q = probabilities(logits[sampled], sampled_rows)
            numbers = [uniform(row.seed, row.position, Purpose.PROPOSE) for row in sampled_rows]
            ids = draw(q, torch.tensor(numbers, dtype=torch.float64, device=q.device)).tolist()
            for index, token_id, row_q in zip(sampled, ids, q, strict=True):
                token_ids[index], distributions[index] = token_id, row_q
                confidences[index] = 1.0  # accepted if the two distributions agree, however even they are
        return NextTokens(token_ids, distributions, confidences, pending.is_representative)

    def _at_target_width(self, logits: torch.Tensor) -> torch.Tensor:
        """Pad or cut the draft model's logits to the target's vocabulary, which request parameters use: [L, V]."""
        num_missing = self._target_vocab_size - logits.shape[-1]
        if num_missing > 0:
            return torch.nn.functional.pad(logits, (0, num_missing), value=-torch.inf)
        return logits[:, : self._target_vocab_size]

    def _is_sampled(self, row: LogitsRow) -> bool:
        """Whether the drafted token is drawn at random. Never with a seed: the output would depend on draft lengths,
        which adapt to measured times. Nor with mirostat, whose limit depends on tokens drawn by the target."""
        sampling = row.sampling
        is_random = not sampling.is_greedy and sampling.seed is None and sampling.mirostat is None
        return self._sampling is DraftSampling.SAMPLED and is_random

    def has_embeddings(self, token_ids: list[int]) -> bool:
        return max(token_ids) < self._model.vocab_size

    def release(self, sequence: Sequence) -> None:
        self._editor.release(sequence.id)


def _last_row(item: PlanItem) -> LogitsRow:
    """Return the sampling row after the item's last token, which may be a drafted token."""
    num_drafted = len(item.sequence.draft)
    return row_of(item.sequence, item.end - num_drafted, num_drafted)
