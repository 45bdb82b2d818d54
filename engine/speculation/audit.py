"""Auditor: replays a share of speculated greedy requests without drafts, and says whether the outputs agree.

Verification is exact up to rounding: a step with another number of rows may round a logit differently. So two outputs
may diverge where the best tokens were almost equal; anywhere else it is a fault, and then nobody should draft any more.
"""

import random

import msgspec

from engine.client.output_stream import merge_outputs
from engine.protocol import AuditVerdict, EngineRequest, FinishReason, RequestOutput, ServiceClass, TokenLogprobs
from engine.scheduling.sequence import Sequence

NEAR_TIE_NATS = 0.05  # below the best token, where rounding may decide
_NUM_TOP = 5  # tokens of each position that are compared: more are never almost equal


def compare(speculated: list[int], replayed: list[int], logprobs: list[TokenLogprobs]) -> AuditVerdict:
    """logprobs: of the replayed tokens, with the best few of each position."""
    for ours, theirs, scores in zip(speculated, replayed, logprobs, strict=False):
        if ours == theirs:
            continue
        best = scores.top[0][1]
        is_tie = any(token_id == ours and best - logprob <= NEAR_TIE_NATS for token_id, logprob in scores.top)
        return AuditVerdict.NEAR_TIE if is_tie else AuditVerdict.DISAGREEMENT
    return AuditVerdict.EQUAL


class Auditor:
    """Turns finished sequences into replays, and their outputs into verdicts. One replay runs at a time."""

    def __init__(self, rate: float) -> None:
        """rate: share of the eligible requests, 0 to 1."""
        self._rate = rate
        self._random = random.Random(0)
        self._speculated: list[int] = []
        self._replayed = RequestOutput(id="")
        self._replay_id: str | None = None

    def start_replay(self, sequence: Sequence, num_waiting: int) -> EngineRequest | None:
        """A replay of this finished sequence, if it is chosen: only while nobody waits, and if raw logits decided."""
        if self._replay_id is not None or num_waiting or not _is_eligible(sequence):
            return None
        if self._random.random() >= self._rate:
            return None
        self._replay_id = f"replay-{sequence.id}"
        self._speculated = sequence.tokens[sequence.num_prompt :]
        self._replayed = RequestOutput(id=self._replay_id)
        sampling = msgspec.structs.replace(
            sequence.request.sampling,
            max_tokens=sequence.num_output,
            logprobs=_NUM_TOP,
            logprob_token_ids=(),
            prompt_logprobs=None,
        )
        return msgspec.structs.replace(
            sequence.request,
            id=self._replay_id,
            sampling=sampling,
            prediction_ids=[],
            resumption=None,
            deadline_s=None,
            reports_progress=False,
            cache_salt=self._replay_id,  # reuse nothing that was computed with drafts
            service_class=ServiceClass.AUDIT,
        )

    def collect(self, outputs: list[RequestOutput]) -> tuple[list[RequestOutput], AuditVerdict | None]:
        """The outputs without the replay's own, and the verdict once it has ended."""
        if self._replay_id is None:
            return outputs, None
        verdict, replay_id = None, self._replay_id
        for output in outputs:
            if output.id == replay_id:
                self._replayed = merge_outputs(self._replayed, output)
                if output.finish_reason is not None:
                    verdict = self._verdict(output)
        return [output for output in outputs if output.id != replay_id], verdict

    def _verdict(self, last: RequestOutput) -> AuditVerdict | None:
        replayed, self._replay_id = self._replayed, None
        if last.finish_reason not in (FinishReason.STOP, FinishReason.LENGTH):
            return None
        return compare(self._speculated, replayed.new_ids, replayed.logprobs or [])


def _is_eligible(sequence: Sequence) -> bool:
    """Greedy, with drafts, and nothing but the raw logits chose its tokens."""
    sampling = sequence.request.sampling
    return (
        sampling.is_greedy
        and sequence.grammar is None
        and sequence.num_drafted > 0  # rejected ones too: they are rolled back
        and sequence.num_output > 0
        and not (sampling.logit_bias or sampling.bad_words)
        and sampling.allowed_token_ids is None
        and sampling.dry is None
        and sampling.min_tokens == 0
        and (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1.0, 0.0, 0.0)
    )
