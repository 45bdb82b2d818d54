"""The scheduler under random requests, aborts, faults and steps: invariants hold and all outputs are right."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from engine.config import SchedulingPolicy
from engine.grammar.sequence_grammar import SequenceGrammar
from engine.protocol import AbortReason, AdapterRef, EngineRequest, FinishReason, ServiceClass
from tests.helpers.engines import (
    SchedulerRun,
    expected_ids,
    half_right_draft,
    make_adapter,
    make_config,
    make_prompt,
    make_request,
)
from tests.helpers.grammars import GRAMMARS, expected_output, ledger_vocabulary, sequence_grammar
from tests.helpers.ledger import EOS_ID

pytestmark = pytest.mark.fast

PREFIX = make_prompt(16)


class SchedulerMachine(RuleBasedStateMachine):
    """SchedulerRun checks the scheduler, the pool, the ledger and the order of outputs in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: dict[str, EngineRequest] = {}
        self.disturbed: set[str] = set()  # aborted, or made to fail
        self.compiling: dict[str, SequenceGrammar] = {}  # of requests that wait for them

    @initialize(
        capacity=st.integers(12, 32),
        block_size=st.sampled_from([1, 2, 4]),
        max_num_seqs=st.sampled_from([8, 3, 1]),
        budget=st.sampled_from([24, 9, 4, 1]),
        threshold=st.sampled_from([0, 0, 1, 5]),
        policy=st.sampled_from(SchedulingPolicy),
        caching=st.sampled_from([True, True, False]),
        drafts=st.booleans(),
        windows=st.sampled_from([(None,), (None,), (None, 5), (3,), (None, 2, 7), (-6,), (None, -5, -8)]),
        ratios=st.sampled_from([(1,), (1,), (2, 1), (1, 3)]),
        num_states=st.sampled_from([0, 0, 1, 3, 9, 40]),
        num_slots=st.sampled_from([2, 1]),
        fill_steps=st.sampled_from([0, 0, 2]),
        feeds=st.booleans(),
    )
    def create(
        self,
        capacity: int,
        block_size: int,
        max_num_seqs: int,
        budget: int,
        threshold: int,
        policy: SchedulingPolicy,
        caching: bool,
        drafts: bool,
        windows: tuple[int | None, ...],
        ratios: tuple[int, ...],
        num_states: int,
        num_slots: int,
        fill_steps: int,
        feeds: bool,
    ) -> None:
        config = make_config(
            num_blocks=capacity // block_size * len(windows),
            windows=windows,
            ratios=ratios,
            num_states=num_states,
            block_size=block_size,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=budget,
            long_prefill_token_threshold=threshold,
            scheduling_policy=policy,
            enable_prefix_caching=caching,
            num_adapter_slots=num_slots,
        )
        self.max_len = config.max_model_len
        self.run = SchedulerRun(config, half_right_draft if drafts else None, fill_steps=fill_steps, feeds=feeds)

    @rule(
        shared=st.integers(0, 16),
        tails=st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=4), min_size=1, max_size=6),
        max_tokens=st.sampled_from([20, 12, 12, 5, 0]),
        priority=st.integers(0, 2),
        salt=st.sampled_from(["", "", "", "other"]),
        prompt_logprobs=st.sampled_from([None, None, None, 0]),
        ignore_eos=st.booleans(),
        seconds=st.sampled_from([None, None, None, 0, 1, 3, 9]),
        queue_seconds=st.sampled_from([None, None, None, 0, 1, 3]),
        service_class=st.sampled_from([ServiceClass.INTERACTIVE, *ServiceClass]),
        reports_progress=st.booleans(),
        tenant=st.sampled_from(["", "", "a", "b"]),
        tenant_weight=st.sampled_from([1.0, 1.0, 4.0]),
        adapter=st.sampled_from([None, None, None, make_adapter("x"), make_adapter("x", 1), make_adapter("y")]),
    )
    def add_some(
        self,
        shared: int,
        tails: list[list[int]],
        max_tokens: int,
        priority: int,
        salt: str,
        prompt_logprobs: int | None,
        ignore_eos: bool,
        seconds: int | None,
        queue_seconds: int | None,
        service_class: ServiceClass,
        reports_progress: bool,
        tenant: str,
        tenant_weight: float,
        adapter: AdapterRef | None,
    ) -> None:
        for tail in tails:
            prompt = (PREFIX[:shared] + tail)[: self.max_len]
            request = make_request(
                f"r{len(self.requests)}",
                prompt,
                max_tokens=min(max_tokens, self.max_len - len(prompt)),
                priority=priority,
                cache_salt=salt,
                prompt_logprobs=prompt_logprobs,
                ignore_eos=ignore_eos,
                deadline_s=None if seconds is None else self.run.now_s + seconds,
                start_by_s=None if queue_seconds is None else self.run.now_s + queue_seconds,
                service_class=service_class,
                reports_progress=reports_progress,
                tenant=tenant,
                tenant_weight=tenant_weight,
                adapter=adapter,
            )
            self.requests[request.id] = request
            self.run.scheduler.add(request)

    @rule(
        tail=st.lists(st.integers(1, 3), min_size=1, max_size=4),
        text=st.sampled_from(GRAMMARS),
        max_tokens=st.sampled_from([20, 12, 5, 1]),
        is_ready=st.booleans(),
    )
    def add_with_grammar(self, tail: list[int], text: str, max_tokens: int, is_ready: bool) -> None:
        prompt = (PREFIX + tail)[-self.max_len + 1 :]
        request = make_request(
            f"r{len(self.requests)}", prompt, max_tokens=min(max_tokens, self.max_len - len(prompt)), grammar=text
        )
        self.requests[request.id] = request
        grammar = sequence_grammar(text) if is_ready else SequenceGrammar(frozenset([EOS_ID]), appends_forced=True)
        if not is_ready:
            self.compiling[request.id] = grammar
        self.run.scheduler.add(request, grammar)

    @precondition(lambda self: self.compiling)
    @rule(data=st.data(), is_refused=st.booleans())
    def compile(self, data: st.DataObject, is_refused: bool) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.compiling)))
        if is_refused:
            self.disturbed.add(request_id)
        self.end_compiling(request_id, is_refused=is_refused)

    def end_compiling(self, request_id: str, *, is_refused: bool) -> None:
        grammar = self.compiling.pop(request_id)
        if is_refused:
            self.run.scheduler.fail(request_id, "made to be refused", is_refused=True)
        else:
            grammar.start(ledger_vocabulary().matcher(self.requests[request_id].grammar or ""))

    @precondition(lambda self: self.requests)  # so that each run begins with requests, whatever rules it is made of
    @rule(count=st.integers(1, 6))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.run.step()
            self.check_deadlines()

    @precondition(lambda self: self.requests)
    @rule(seconds=st.integers(1, 4))
    def pass_time(self, seconds: int) -> None:
        self.run.now_s += seconds

    def check_deadlines(self) -> None:
        """After a step no sequence continues whose time is over."""
        ended = self.run.transcript.finish_reasons
        for request in self.requests.values():
            assert request.id in ended or request.deadline_s is None or request.deadline_s > self.run.now_s

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.requests)))
        self.disturbed.add(request_id)
        self.run.scheduler.abort(request_id, AbortReason.CLIENT_GONE)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def abort_within_a_step(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.requests)))
        self.disturbed.add(request_id)
        self.run.step(abort_meanwhile=request_id)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.requests)))
        self.disturbed.add(request_id)
        self.run.runner.fail_ids.add(request_id)

    def teardown(self) -> None:
        if not hasattr(self, "run"):
            return
        for request_id in list(self.compiling):
            self.end_compiling(request_id, is_refused=False)
        transcript = self.run.finish()
        assert set(transcript.finish_reasons) == set(self.requests)
        for request in self.requests.values():
            self.check_output(request)
        if self.run.stats:
            last = self.run.stats[-1]
            assert (last.running, last.waiting, last.blocks_used) == (0, 0, 0)

    def check_output(self, request: EngineRequest) -> None:
        ids, reason = self.run.transcript.ids[request.id], self.run.transcript.finish_reasons[request.id]
        expected = expected_ids(request)
        if reason is FinishReason.QUEUE_TIMEOUT:
            assert request.start_by_s is not None
            assert request.start_by_s <= self.run.now_s
            assert ids == []
            assert self.run.transcript.last[request.id].queue_s is None
            return
        if reason in (FinishReason.ABORT, FinishReason.ERROR, FinishReason.TIMEOUT):
            is_late = request.deadline_s is not None and request.deadline_s <= self.run.now_s
            assert is_late if reason is FinishReason.TIMEOUT else request.id in self.disturbed
            assert ids == expected[: len(ids)]
            return
        if request.grammar is not None:
            assert (ids, reason) == expected_output(request)
            return
        ends_with_eos = bool(expected) and expected[-1] == EOS_ID and not request.sampling.ignore_eos
        assert ids == expected
        assert reason is (FinishReason.STOP if ends_with_eos else FinishReason.LENGTH)
        if request.reports_progress and ids:
            assert self.run.transcript.progress[request.id][-1] == len(request.prompt_ids)
        else:
            assert request.reports_progress or request.id not in self.run.transcript.progress
        prompt_logprobs = self.run.transcript.first[request.id].prompt_logprobs
        if request.sampling.prompt_logprobs is not None:
            assert prompt_logprobs is not None
            assert [entry and entry.token_id for entry in prompt_logprobs] == [None, *request.prompt_ids[1:]]


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=100, stateful_step_count=40, deadline=None, derandomize=True)
