"""Auditor: repeats a share of speculated greedy requests without drafts, and reports whether the outputs agree.

Verification is exact up to rounding: a step with another number of rows may round a logit differently. So two outputs
may diverge where the best tokens were almost equal. A difference anywhere else is a fault, and then drafting must stop.
"""

import random

import msgspec

from engine.client.output_stream import merge_outputs
from engine.protocol import AuditVerdict, EngineRequest, FinishReason, RequestOutput, ServiceClass, TokenLogprobs
from engine.scheduling.sequence import Sequence

NEAR_TIE_NATS = 0.05  # below the best token: rounding may decide
_NUM_TOP = 5  # tokens of each position that are compared: more are never almost equal


def compare_outputs(speculated: list[int], repeated: list[int], logprobs: list[TokenLogprobs]) -> AuditVerdict:
    """Compare a request's tokens with its repetition's. logprobs: top log probabilities of the repetition."""
    for ours, theirs, scores in zip(speculated, repeated, logprobs, strict=False):
        if ours == theirs:
            continue
        best = scores.top[0][1]
        is_tie = any(token_id == ours and best - logprob <= NEAR_TIE_NATS for token_id, logprob in scores.top)
        return AuditVerdict.NEAR_TIE if is_tie else AuditVerdict.DISAGREEMENT
    return AuditVerdict.EQUAL


class Auditor:
    """Makes requests that repeat finished sequences, one at a time, and compares their outputs."""

    def __init__(self, rate: float) -> None:
        """rate: fraction of the eligible requests to repeat, 0 to 1."""
        self._rate = rate
        self._random = random.Random(0)
        self._speculated: list[int] = []
        self._repeated = RequestOutput(id="")
        self._repeat_id: str | None = None

    def start_repeat(self, sequence: Sequence, num_waiting: int) -> EngineRequest | None:
        """Return a request that repeats this finished sequence; None if the sequence is not eligible or not drawn, or
        while a request waits or another repetition runs."""
        if self._repeat_id is not None or num_waiting or not _is_eligible(sequence):
            return None
        if self._random.random() >= self._rate:
            return None
        self._repeat_id = f"repeat-{sequence.id}"
        self._speculated = sequence.tokens[sequence.num_prompt :]
        self._repeated = RequestOutput(id=self._repeat_id)
        sampling = msgspec.structs.replace(
            sequence.request.sampling,
            max_tokens=sequence.num_output,
            logprobs=_NUM_TOP,
            logprob_token_ids=(),
            prompt_logprobs=None,
        )
        return msgspec.structs.replace(
            sequence.request,
            id=self._repeat_id,
            sampling=sampling,
            prediction_ids=[],
            resumption=None,
            deadline_s=None,
            reports_progress=False,
            cache_salt=self._repeat_id,  # reuse nothing that was computed with drafts
            service_class=ServiceClass.AUDIT,
        )

    def collect(self, outputs: list[RequestOutput]) -> tuple[list[RequestOutput], AuditVerdict | None]:
        """Return the outputs without the repetition's, and the verdict if the repetition has ended."""
        if self._repeat_id is None:
            return outputs, None
        verdict, repeat_id = None, self._repeat_id
        for output in outputs:
            if output.id == repeat_id:
                self._repeated = merge_outputs([self._repeated, output])
                if output.finish_reason is not None:
                    verdict = self._verdict(output)
        return [output for output in outputs if output.id != repeat_id], verdict

    def _verdict(self, last: RequestOutput) -> AuditVerdict | None:
        repeated, self._repeat_id = self._repeated, None
        if last.finish_reason not in (FinishReason.STOP, FinishReason.LENGTH):
            return None
        return compare_outputs(self._speculated, repeated.new_ids, repeated.logprobs or [])


def _is_eligible(sequence: Sequence) -> bool:
    """Whether the sequence is greedy, had drafts, and its tokens are the argmax of the raw logits."""
    sampling = sequence.request.sampling
    return (
        sampling.is_greedy
        and sequence.grammar is None
        and sequence.num_drafted > 0  # also if all were rejected: they are rolled back
        and sequence.num_output > 0
        and not (sampling.logit_bias or sampling.bad_words)
        and sampling.allowed_token_ids is None
        and sampling.dry is None
        and sampling.min_tokens == 0
        and (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1.0, 0.0, 0.0)
    )
