"""DeviceSampler: samples a step's tokens on a GPU while the host does not wait, and reads all of them in one copy.

The numbers that a step needs of the host (parameters, random numbers, tokens that penalties count) go to the device in
one copy, and the masks of grammars in another. The result is that of Sampler, which samples the steps that have a row
with other parameters.
"""

from array import array
from collections.abc import Callable, Container, Sequence
from typing import NamedTuple

import torch

from engine.protocol import TokenLogprobs
from engine.sampling.draw import uniform
from engine.sampling.logprobs import LOGPROB_FLOOR
from engine.sampling.rejection import agreeing_prefix
from engine.sampling.rows import LogitsRow, first_rows
from engine.sampling.sampler import corrupted, refusal
from engine.scheduling.plan import RowResult
from models.kernels.torch.draw import draw
from models.kernels.torch.logits import LogitOperations, masked_logits
from models.kernels.torch.truncation import TruncationParams, all_weights
from models.system.cuda import HostCopy, copied_back, staged

_PARAMS = 7  # numbers of a row: see _Inputs.params


class _Inputs(NamedTuple):
    """The host's numbers for a step. numbers: [7 * L + 4 * n] fp64, parameters of the rows, then of n penalized or
    biased logits: their indices, biases, repetition penalties and numbers of occurrences in the output."""

    numbers: torch.Tensor
    num_rows: int
    is_sampled: bool  # whether any row is drawn
    is_truncated: bool
    num_top: int | None  # most top tokens of a row with log probabilities; None: no row has any
    masks: torch.Tensor | None = None  # from GrammarMasks.take

    @property
    def params(self) -> torch.Tensor:
        """[7, L]: temperature (0 is greedy), top-k, top-p, min-p, the uniform number, and the presence and frequency
        penalties."""
        return self.numbers[: _PARAMS * self.num_rows].view(self.num_rows, _PARAMS).T

    @property
    def has_edits(self) -> bool:
        """Whether any logit is penalized or biased."""
        return len(self.numbers) > _PARAMS * self.num_rows


class PendingTokens(NamedTuple):
    """Tokens that a device samples. ids: [L] int64, on the device. numbers: [L, 3 or 4 + 2 * num_top] fp64, on their
    way to the host: whether the row is finite, whether any token is left to it, its token, the log probability of the
    token, and those and the ids of the top tokens. must_be_read: whether the next step needs them on the host: for
    penalties, which count tokens there, or to know how much of a draft is accepted."""

    rows: list[LogitsRow]
    ids: torch.Tensor
    numbers: HostCopy
    num_top: int | None
    must_be_read: bool

    def read(self) -> list[RowResult]:
        """Wait for the device, and return each sequence's result: the accepted tokens of its draft, and one more."""
        numbers = self.numbers.read().tolist()
        results = []
        for start in first_rows(self.rows):
            draft = self.rows[start].draft
            count = 1
            if draft:
                own = [int(token) for _, _, token, *_ in numbers[start : start + len(draft) + 1]]
                count += agreeing_prefix(draft, own)
            results.append(self._result(self.rows[start : start + count], numbers[start : start + count]))
        return results

    def _result(self, rows: list[LogitsRow], numbers: list[list[float]]) -> RowResult:
        """Return the result of the rows of a sequence whose tokens are accepted."""
        wanted = rows[0].sampling.logprobs
        tokens: list[int] = []
        logprobs: list[TokenLogprobs] = []
        for row, (is_finite, is_possible, token, *values) in zip(rows, numbers, strict=True):
            if not is_finite:
                return corrupted()
            if not is_possible:
                return refusal(row)
            tokens.append(int(token))
            if wanted is not None and self.num_top is not None:
                own, *top = values
                ids = top[self.num_top : self.num_top + wanted]
                best = [(int(id), value) for id, value in zip(ids, top[:wanted], strict=True)]
                logprobs.append(TokenLogprobs(tokens[-1], own, best, None))
        return RowResult(tokens) if wanted is None else RowResult(tokens, logprobs)


class DeviceSampler:
    """Samples rows with temperature, top-k, top-p, min-p, penalties, biases, grammars and log probabilities. Verifies
    drafts that were not drawn at random: each row's token is sampled as without a draft. Keeps the tokens that each
    sequence's penalties count until `release`."""

    def __init__(self, vocab_size: int, device: torch.device, ops: LogitOperations) -> None:
        self._vocab_size, self._device, self._ops = vocab_size, device, ops
        self._edits: dict[str, _Edits] = {}

    def release(self, sequence_id: str) -> None:
        self._edits.pop(sequence_id, None)

    def launch(
        self,
        logits: torch.Tensor,
        rows: list[LogitsRow],
        take_masks: Callable[[], torch.Tensor | None] = lambda: None,
        drawn_drafts: Container[str] = (),
    ) -> PendingTokens | None:
        """Start sampling a token for each row of logits [L, V] fp32, which stay as they are. Return None if a row has
        parameters that Sampler alone takes. take_masks: GrammarMasks.take, for masks of all rows with a grammar; the
        device computes the logits meanwhile. drawn_drafts: ids of sequences whose drafts were drawn at random, which
        Sampler verifies by rejection."""
        if not all(_is_taken(row) and (not row.draft or row.sequence_id not in drawn_drafts) for row in rows):
            return None
        inputs = self.inputs(rows)
        masks = take_masks()
        inputs = inputs._replace(numbers=self._sent(inputs.numbers), masks=None if masks is None else self._sent(masks))
        ids, numbers = self.sampled(logits, inputs)
        must_be_read = any(row.draft or row.sampling.has_penalties for row in rows)
        return PendingTokens(rows, ids, copied_back(numbers), inputs.num_top, must_be_read)

    def _sent(self, host: torch.Tensor) -> torch.Tensor:
        return staged(host, self._device).to(self._device, non_blocking=True)

    def inputs(self, rows: Sequence[LogitsRow]) -> _Inputs:
        """Collect the host's numbers for the rows."""
        numbers, edits = array("d"), [array("d") for _ in range(4)]
        is_sampled = is_truncated = False
        num_top = None
        for index, row in enumerate(rows):
            p = row.sampling
            temperature = 0.0 if p.is_greedy else p.temperature
            number = 0.0
            if temperature:
                is_sampled, number = True, uniform(row.seed, row.position)
                is_truncated |= p.top_k > 0 or p.top_p < 1.0 or p.min_p > 0.0
            penalties = p.presence_penalty, p.frequency_penalty
            numbers.extend((temperature, min(p.top_k, self._vocab_size), p.top_p, p.min_p, number, *penalties))
            if p.logprobs is not None:
                num_top = max(num_top or 0, min(p.logprobs, self._vocab_size))
            if p.has_penalties or p.logit_bias:
                self._edits.setdefault(row.sequence_id, _Edits()).append_to(edits, row, index * self._vocab_size)
        for column in edits:
            numbers.extend(column)
        host = torch.frombuffer(numbers, dtype=torch.float64)
        return _Inputs(host, len(rows), is_sampled, is_truncated, num_top)

    def sampled(self, logits: torch.Tensor, inputs: _Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Launch the operators that sample; return the `ids` and `numbers` of PendingTokens, both on the device.
        Nothing is read."""
        temperature, top_k, top_p, min_p, uniforms, presence, frequency = inputs.params
        best_values, chosen = self._ops.best_ids(logits)
        is_finite = best_values.isfinite()
        edited = logits
        if inputs.has_edits:
            edited = self._edited(logits, inputs, presence.float(), frequency.float())
        if inputs.masks is not None:
            rows = inputs.masks[:, 0].long()
            edited = edited.index_copy(0, rows, masked_logits(edited[rows], inputs.masks[:, 1:]))
        if edited is not logits:
            best_values, chosen = self._ops.best_ids(edited)
        if inputs.is_sampled:
            is_drawn = temperature > 0.0
            scaled = edited / torch.where(is_drawn, temperature, 1.0).float().unsqueeze(-1)
            limits = TruncationParams(top_k.long(), top_p, min_p) if inputs.is_truncated else None
            chosen = torch.where(is_drawn, draw(all_weights(scaled, limits), uniforms), chosen)
        # A row that is not finite may draw any number, and the next step, launched before this is read, looks it up.
        chosen = chosen.clamp(0, self._vocab_size - 1)
        columns = [each.double().unsqueeze(-1) for each in (is_finite, best_values != -torch.inf, chosen)]
        if inputs.num_top is not None:
            log_total = self._ops.log_sums(logits).unsqueeze(-1)
            top_values, top_ids = self._ops.top_ids(logits, inputs.num_top)
            for values in (logits.gather(-1, chosen.unsqueeze(-1)), top_values):
                columns.append((values - log_total).clamp(min=LOGPROB_FLOOR).double())
            columns.append(top_ids.double())
        return chosen, torch.cat(columns, dim=-1)

    def _edited(
        self, logits: torch.Tensor, inputs: _Inputs, presence: torch.Tensor, frequency: torch.Tensor
    ) -> torch.Tensor:
        """Return the logits after biases and penalties, rounded as by the steps of Sampler."""
        indices, biases, repetition, occurrences = inputs.numbers[_PARAMS * inputs.num_rows :].view(4, -1)
        indices = indices.long()
        rows = indices // self._vocab_size
        values = logits.flatten()[indices] + biases.float()
        factors = repetition.float()
        values = torch.where(values > 0, values / factors, values * factors)
        counts = occurrences.float()
        values -= torch.where(counts > 0, presence[rows] + frequency[rows] * counts, 0.0)
        return logits.flatten().index_copy(0, indices, values).view_as(logits)


class _Edits:
    """Tokens of a sequence with a bias or penalty, with their biases, repetition penalties, and occurrences in the
    output. A step counts only new tokens."""

    def __init__(self) -> None:
        self._order: dict[int, int] = {}
        self._biases, self._factors, self._counts = self._columns = [array("d") for _ in range(3)]
        self._num_seen = 0

    def append_to(self, columns: Sequence["array[float]"], row: LogitsRow, offset: int) -> None:
        """Append the row's numbers, with `offset` added to the ids."""
        p = row.sampling
        if not self._num_seen:
            for token_id, bias in p.logit_bias.items():
                self._biases[self._place(token_id)] = bias
        if p.has_penalties:
            for position, token_id in enumerate(row.known_from(self._num_seen), self._num_seen):
                place = self._place(token_id)
                self._factors[place] = p.repetition_penalty
                self._counts[place] += position >= row.num_prompt
        self._num_seen = row.num_known
        columns[0].extend([token_id + offset for token_id in self._order])
        for column, own in zip(columns[1:], self._columns, strict=True):
            column.extend(own)

    def _place(self, token_id: int) -> int:
        place = self._order.setdefault(token_id, len(self._order))
        if place == len(self._biases):
            for column, value in zip(self._columns, (0.0, 1.0, 0.0), strict=True):
                column.append(value)
        return place


def _is_taken(row: LogitsRow) -> bool:
    p = row.sampling
    others = p.dry, p.bad_words, p.min_tokens, p.xtc, p.mirostat, p.top_n_sigma, p.logprob_token_ids
    is_plain = p.allowed_token_ids is None and p.typical_p == 1.0 and not any(others)
    # Penalties count the tokens of a sequence, and not yet those before a row of its draft.
    return is_plain and row.thinking is None and not (row.draft and p.has_penalties)
