"""TorchDraftRunner: plans of a draft model, on tapes like the target's, with a KV cache over the same block ids."""

import json

import torch

from engine.config import DraftSampling
from engine.errors import StartupError
from engine.plan import StepPlan
from engine.runner.batch_builder import build_batch
from engine.runner.kv_tensors import allocate_kv
from engine.runner.recorded import RecordedLayers
from engine.sampling.distribution import is_greedy, probabilities
from engine.sampling.draw import Purpose, draw, uniform
from engine.sampling.logit_edits import LogitEditor
from engine.sampling.rows import LogitsRow
from engine.sequence import Sequence
from engine.spec.draft_model import NextTokens
from models.kernels.cpu.library import kernel_library
from models.loaded import LoadedModel

_LEAST_SHARED = 0.9  # of the target's tokens: with fewer in common the two are not of one family


class TorchDraftRunner:
    """DraftRunner on a loaded model. Drafted tokens go through the same sampling steps as the target's."""

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
        """target_vocab_size: width of the target's output layer; the draft's may be padded to another. eos_token_ids:
        the target's."""
        self._model = model
        self._block_size = block_size
        self._target_vocab_size = target_vocab_size
        self._sampling = sampling
        self._kv = allocate_kv(model, num_blocks, block_size)
        max_blocks = -(-model.max_position // block_size)
        library = kernel_library() if model.device.type == "cpu" else None
        self._recorded = (
            None if library is None else RecordedLayers(model.decoder, self._kv, library, max_blocks=max_blocks)
        )
        self._editor = LogitEditor(eos_token_ids)

    @torch.inference_mode()
    def next_tokens(self, plan: StepPlan) -> NextTokens:
        batch = build_batch(plan, self._block_size, self._model.device)
        decoder = self._model.decoder
        hidden = decoder(batch, self._kv) if self._recorded is None else self._recorded(batch)
        rows = [LogitsRow(item.sequence, len(item.sequence.draft)) for item in plan.items if item.needs_logits]
        if not rows:
            return NextTokens([], [])
        logits = self._as_targets(decoder.logits(hidden[batch.logit_rows]))
        self._editor.edit(logits, rows)
        best_values, best_ids = logits.max(dim=-1)  # max propagates NaN
        sound = torch.isfinite(best_values).tolist()
        token_ids = [
            token_id if is_sound else None for token_id, is_sound in zip(best_ids.tolist(), sound, strict=True)
        ]
        distributions: list[torch.Tensor | None] = [None] * len(rows)
        drawn = [index for index, row in enumerate(rows) if sound[index] and self._draws(row)]
        if drawn:
            drawn_rows = [rows[index] for index in drawn]
            q = probabilities(logits[drawn], drawn_rows)
            numbers = [uniform(row.sequence.seed, row.position, Purpose.PROPOSE) for row in drawn_rows]
            ids = draw(q, torch.tensor(numbers, dtype=torch.float64, device=q.device)).tolist()
            for index, token_id, row_q in zip(drawn, ids, q, strict=True):
                token_ids[index], distributions[index] = token_id, row_q
        return NextTokens(token_ids, distributions)

    def _as_targets(self, logits: torch.Tensor) -> torch.Tensor:
        """The draft's logits at the target's width, whose ids a request's parameters may name: [L, V]."""
        num_missing = self._target_vocab_size - logits.shape[-1]
        if num_missing > 0:
            return torch.nn.functional.pad(logits, (0, num_missing), value=-torch.inf)
        return logits[:, : self._target_vocab_size]

    def _draws(self, row: LogitsRow) -> bool:
        return self._sampling is DraftSampling.SAMPLED and not is_greedy(row.sequence.request.sampling)

    def can_read(self, token_ids: list[int]) -> bool:
        return max(token_ids) < self._model.vocab_size

    def release(self, sequence: Sequence) -> None:
        self._editor.release(sequence)


def check_draft(target: LoadedModel, draft: LoadedModel) -> None:
    """Raise StartupError unless the draft can follow the target: the same tokens under the same ids (ids that only one
    of them has are never drafted or end the drafting of their sequence), and one KV group that keeps everything."""
    ours, theirs = _tokens(target.tokenizer.tokenizer_json), _tokens(draft.tokenizer.tokenizer_json)
    both = ours.keys() & theirs.keys()
    different = [token_id for token_id in both if ours[token_id] != theirs[token_id]]
    if different or len(both) < _LEAST_SHARED * len(ours):
        raise StartupError(
            f"the draft model's vocabulary is not the model's: they have {len(theirs):,} and {len(ours):,} tokens, "
            f"{len(both) - len(different):,} of them with the same id{_example(ours, theirs, different)}; choose "
            "a draft model of the model's own family"
        )
    if [group.window for group in draft.layer_groups] != [None]:
        raise StartupError("the draft model has layers with a window; choose one without")
    if full_attention_group(target) is None:
        raise StartupError(
            "all layers of the model have a window, which drafting with a model cannot do yet; leave out --draft-model"
        )


def full_attention_group(target: LoadedModel) -> int | None:
    """The group of the target whose blocks cover the whole context, and so can be shared with a draft model."""
    return next((index for index, group in enumerate(target.layer_groups) if group.window is None), None)


def _example(ours: dict[int, str], theirs: dict[int, str], different: list[int]) -> str:
    if not different:
        return ""
    first = min(different)
    return f" (token {first} is {theirs[first]!r} in the draft and {ours[first]!r} in the model)"


def _tokens(tokenizer_json: bytes) -> dict[int, str]:
    """id -> token, padding that stands for no text left out."""
    tokenizer = json.loads(tokenizer_json)
    vocabulary = tokenizer["model"]["vocab"]
    pairs = (
        vocabulary.items() if isinstance(vocabulary, dict) else ((piece, i) for i, (piece, *_) in enumerate(vocabulary))
    )
    tokens = {token_id: token for token, token_id in pairs}
    tokens |= {added["id"]: added["content"] for added in tokenizer.get("added_tokens", [])}
    return {token_id: token for token_id, token in tokens.items() if not token.startswith("[PAD")}
