"""ScoringRun: one ScoringRequest in progress, as requests of one token each that the scheduler knows how to serve.

The first question's row is computed alone, and with it the state. All other rows find the state in the prefix cache,
and a longer path of a label finds the question. A question that begins like an earlier one waits for that one's first
row, and copies the beginning. Each question then advances by itself: once all rows that it waits for are known, its
walk says which are needed next.

    state.predicate one        first
          |-------- two        after the first, whose beginning it copies
          choice three         after the first, with the state alone in common
          |----- four          after the third
"""

from collections import abc, deque
from typing import NamedTuple

from engine.protocol import (
    EngineRequest,
    FinishReason,
    LabelMasses,
    RequestOutput,
    SamplingParams,
    ScoringRequest,
)
from engine.protocol.scoring import Path
from engine.scheduling.sequence import Sequence
from engine.scoring.beginnings import followers, neighbors, shared_lengths
from engine.scoring.labels import LabelNode, LabelTrie
from engine.scoring.walk import LabelWalk


class _Lookup(NamedTuple):
    """A row to read: that of the token behind a question and the first tokens of a label.

    node: None until the trie of the question's labels is made. continues: the sequence of the row before it, or of the
    question that this one follows; None if it is not known."""

    question: int
    node: LabelNode | None = None
    continues: Sequence | None = None

    @property
    def path(self) -> Path:
        """The first tokens of a label, none for the first row of a question."""
        return () if self.node is None else self.node.path

    @property
    def is_first(self) -> bool:
        """Whether the row is the first of the request."""
        return self.question == 0 and not self.path


class ScoringRun:
    """State of one request. Call `take_next` for requests to compute, and `receive` with the output of each.

    leader: the first sequence, whose place in the order of service all others have; None until it is added. followed:
    other sequences of questions that have ended, whose beginnings other questions share.

    The labels of each question are turned into a trie when its first row is taken, and forgotten when its walk ends:
    all together may have hundreds of thousands of tokens, too many for a step to wait for.

    Invariants: until the run has ended, a row is open or due; the first is open or due alone; a question has a walk
    while one of its rows is open, or due behind another one; a question is not due before the one that it follows is
    known.
    """

    def __init__(self, request: ScoringRequest) -> None:
        self.request = request
        self.has_ended = False
        self.leader: Sequence | None = None
        self.followed: list[Sequence] = []
        pairs = neighbors([question.ids for question in request.questions])
        self._num_shared, self._followers = shared_lengths(pairs), followers(pairs)
        self._num_following_tokens = sum(len(question.ids) for question in request.questions[1:])  # of those not due
        self._walks: dict[int, LabelWalk] = {}
        self._masses: dict[int, LabelMasses] = {}
        self._due = deque([_Lookup(0)])
        self._open: dict[str, _Lookup] = {}
        self._num_awaited = [1] * len(request.questions)  # rows of each question that are open or due
        self._num_cached = [0] * len(request.questions)  # tokens that the first row of each question found cached
        self._num_written = 0
        self._first: RequestOutput | None = None
        # For each question that has not ended, by path: the sequences whose blocks the next rows continue.
        self._sequences: list[dict[Path, Sequence]] = [{} for _ in request.questions]
        self._left: list[Sequence] = []
        self._preempted_s: list[float] = []

    @property
    def has_due(self) -> bool:
        return bool(self._due)

    @property
    def num_due_tokens(self) -> int:
        """Tokens to compute for the rows that are due, and for the questions that follow, if the state is cached."""
        due = sum(1 if each.path else len(self.request.questions[each.question].ids) for each in self._due)
        return due + self._num_following_tokens

    @property
    def has_first(self) -> bool:
        """Whether the first row is known."""
        return self._first is not None

    @property
    def num_open(self) -> int:
        return len(self._open)

    @property
    def open_ids(self) -> abc.Sequence[str]:
        """Ids of the requests whose outputs are still to come."""
        return list(self._open)

    def take_next(self) -> tuple[EngineRequest, Sequence | None]:
        """Return the next request to compute, and a sequence that it continues; there must be one."""
        lookup = self._due.popleft()
        if lookup.node is None:
            trie = LabelTrie(self.request.questions[lookup.question].labels)
            self._walks[lookup.question] = LabelWalk(trie)
            lookup = lookup._replace(node=trie.root)
        request = self._request_of(lookup)
        self._open[request.id] = lookup
        return request, lookup.continues

    def receive(self, output: RequestOutput, sequence: Sequence | None = None) -> RequestOutput | None:
        """Take the terminal output of one of the requests, and its sequence. Return the output of the whole request if
        it ends now, by success or because this part failed; the other open requests are then of no use."""
        lookup = self._open.pop(output.id)
        self._preempted_s += output.preempted_s
        if lookup.is_first:
            self._first = output
        if output.finish_reason is not FinishReason.LENGTH:
            return self._failed(output, lookup.question)
        assert output.logprobs is not None
        assert lookup.node is not None
        if not lookup.path:
            self._num_cached[lookup.question] = output.num_cached_tokens
            self._num_written += output.num_written_tokens
        walk = self._walks[lookup.question]
        if sequence is not None:
            self._sequences[lookup.question][lookup.path] = sequence
        walk.expand(lookup.node, [logprob for _, logprob in output.logprobs[0].top])
        if not lookup.path:
            self._follow(lookup.question, sequence)
        self._num_awaited[lookup.question] -= 1
        if not self._num_awaited[lookup.question]:
            self._put_due(lookup.question)
        if self._open or self._due:
            return None
        self.has_ended = True
        return self._terminal(FinishReason.STOP, scores=[each for _, each in sorted(self._masses.items())])

    def take_left(self) -> list[Sequence]:
        """Return the sequences since the last call that no row will continue; never the leader or one of `followed`."""
        left, self._left = self._left, []
        return left

    def refuse(self, error: str) -> RequestOutput:
        """End the run because one of its requests can never be served; return its output."""
        return self._failed(RequestOutput(id="", finish_reason=FinishReason.ERROR, error=error, is_refused=True), None)

    def _follow(self, question: int, sequence: Sequence | None) -> None:
        """Queue the questions that follow one, before all others: its beginning may not be cached for long."""
        numbers = self._followers[question]
        self._due.extendleft(_Lookup(each, None, sequence) for each in reversed(numbers))
        self._num_following_tokens -= sum(len(self.request.questions[each].ids) for each in numbers)

    def _put_due(self, question: int) -> None:
        """Queue the rows that a question needs next, before the rows of later questions: its beginning is cached, and
        may not be for long."""
        nodes = self._walks[question].due()
        self._num_awaited[question] = len(nodes)
        sequences = self._sequences[question]
        self._due.extendleft(_Lookup(question, node, sequences.get(node.path[:-1])) for node in reversed(nodes))
        if not nodes:
            self._masses[question] = self._walks.pop(question).masses()
            for path, each in sequences.items():
                if each is not self.leader:
                    (self._left if path or not self._followers[question] else self.followed).append(each)
            sequences.clear()

    def _request_of(self, lookup: _Lookup) -> EngineRequest:
        whole, path = self.request, lookup.path
        assert lookup.node is not None
        question = whole.questions[lookup.question]
        # The first has the request's own id, so that its events and its start are those of the request.
        id = whole.id if lookup.is_first else "/".join(map(str, (whole.id, lookup.question, *path)))
        return EngineRequest(
            id=id,
            prompt_ids=[*whole.prompt_ids, *question.ids, *path],
            sampling=SamplingParams(
                max_tokens=1,
                temperature=0.0,
                ignore_eos=True,
                logprobs=0,
                logprob_token_ids=tuple(lookup.node.children),
            ),
            arrival_s=whole.arrival_s,
            deadline_s=whole.deadline_s,
            start_by_s=whole.start_by_s if lookup.is_first else None,
            priority=whole.priority,
            service_class=whole.service_class,
            tenant=whole.tenant,
            tenant_weight=whole.tenant_weight,
            cache_salt=whole.cache_salt,
            adapter=whole.adapter,
            drawn_seed=0,  # nothing is drawn
        )

    def _failed(self, output: RequestOutput, question: int | None) -> RequestOutput:
        assert output.finish_reason is not None
        self.has_ended = True
        self._due.clear()
        return self._terminal(
            output.finish_reason,
            error=output.error,
            is_refused=output.is_refused,
            refused_param=output.refused_param,
            failed_question=question,
        )

    def _terminal(self, finish_reason: FinishReason, **fields: object) -> RequestOutput:
        first = self._first
        return RequestOutput(
            id=self.request.id,
            finish_reason=finish_reason,
            num_cached_tokens=self._num_cached_tokens(),
            num_written_tokens=self._num_written,
            queue_s=None if first is None else first.queue_s,
            preempted_s=self._preempted_s,
            **fields,  # type: ignore[arg-type]
        )

    def _num_cached_tokens(self) -> int:
        """Return how many of the request's tokens were in the prefix cache before it: what the first row found of the
        state, and what each question found of its own tokens beyond the beginning that it shares with another
        question, which may have computed it."""
        num_state = len(self.request.prompt_ids)
        total = min(self._num_cached[0], num_state)
        for num_cached, num_shared in zip(self._num_cached, self._num_shared, strict=True):
            total += max(0, num_cached - num_state - num_shared)
        return total
