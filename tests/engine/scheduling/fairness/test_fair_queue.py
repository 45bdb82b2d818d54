"""Waiting sequences in turn: the least served tenant's first, whatever was charged, refunded, added and removed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.grammar.sequence_grammar import SequenceGrammar
from engine.protocol import ServiceClass
from engine.scheduling.fairness.account import TenantAccount
from engine.scheduling.fairness.fair_queue import FairQueue
from engine.scheduling.sequence import Gate, Sequence
from tests.helpers.engines import make_request
from tests.helpers.grammars import GRAMMARS, ledger_vocabulary
from tests.helpers.ledger import EOS_ID

pytestmark = pytest.mark.fast


def sequence(
    number: int,
    account: TenantAccount,
    service_class: ServiceClass = ServiceClass.INTERACTIVE,
    grammar: SequenceGrammar | None = None,
) -> Sequence:
    request = make_request(str(number), [1], service_class=service_class)
    each = Sequence(request=request, seed=0, tokens=[1], num_prompt=1, account=account, grammar=grammar)
    each.order = (each.service.rank, 0, 0.0, number, 0)
    return each


def ids(queue: FairQueue, limits: dict[TenantAccount, int] | None = None) -> list[str]:
    return [each.id for each in queue.in_turn(limits or {})]


def test_what_a_tenant_is_charged_meanwhile_counts_at_once() -> None:
    a, b = TenantAccount("a"), TenantAccount("b")
    queue = FairQueue()
    for number, account in enumerate((a, a, a, b, b)):
        queue.add(sequence(number, account))
    turns = []
    for each in queue.in_turn({}):
        turns.append(each.id)
        each.account.charge_output(3 if each.account is a else 5)
    assert turns == ["0", "3", "1", "4", "2"]


def test_a_refund_brings_the_turn_forward() -> None:
    a, b = TenantAccount("a"), TenantAccount("b", counter=5.0)
    queue = FairQueue()
    queue.add(of_a := sequence(0, a))
    queue.add(sequence(1, b))
    a.charge_prompt(10)
    assert ids(queue) == ["1", "0"]
    a.charge_prompt(-8)
    queue.advance(of_a)
    assert ids(queue) == ["0", "1"]


def test_limits_are_looked_at_whenever_a_tenants_next_is_sought() -> None:
    a, b = TenantAccount("a"), TenantAccount("b", counter=5.0)
    queue, limits = FairQueue(), dict[TenantAccount, int]()
    for number, (account, length) in enumerate([(a, 50), (a, 30), (a, 20), (a, 10), (b, 90)]):
        each = sequence(number, account)
        each.num_to_compute = length
        queue.add(each)
    turns = []
    for each in queue.in_turn(limits):
        turns.append(each.id)
        limits |= {"0": {a: 25}, "2": {a: 0}}.get(each.id, {})
    assert turns == ["0", "2", "4"]


def test_a_sequence_joins_the_line_when_its_grammar_is_compiled() -> None:
    grammar = SequenceGrammar(frozenset([EOS_ID]), appends_forced=True)
    queue = FairQueue()
    compiling = sequence(0, TenantAccount(), grammar=grammar)
    queue.add(compiling)

    def put_back() -> None:
        compiling.closed_gates.discard(Gate.GRAMMAR)
        queue.put_back(compiling)

    grammar.when_ready(put_back)
    assert (len(queue), queue.has_ready, queue.first, queue.first_rank) == (1, False, None, None)
    grammar.start(ledger_vocabulary().matcher(GRAMMARS[0]))
    assert (queue.has_ready, queue.first, queue.first_rank) == (True, compiling, 1)
    queue.check()


def test_one_that_others_set_aside_is_work_all_the_same() -> None:
    """The caller that set it aside puts it back within a step, for which there must be work."""
    queue = FairQueue()
    queue.add(each := sequence(0, TenantAccount()))
    queue.set_aside(each)
    assert queue.has_ready
    assert ids(queue) == []


def test_a_tenant_that_was_idle_has_no_credit() -> None:
    a, b, c = TenantAccount("a", counter=9.0), TenantAccount("b"), TenantAccount("c", counter=7.0)
    queue = FairQueue()
    queue.add(sequence(0, a))
    queue.add(sequence(1, c))
    queue.add_new(sequence(2, b))
    assert b.counter == 7.0


def test_the_weight_is_that_of_tenants_that_wait() -> None:
    a, b = TenantAccount("a", weight=2.0), TenantAccount("b", weight=3.0)
    queue = FairQueue()
    of_a, of_b = sequence(0, a), sequence(1, b)
    queue.add(of_a)
    queue.add(of_b)
    a.weight = 7.0  # its next request's
    queue.add(again := sequence(2, a))
    assert queue.weight(1) == 10.0
    for each in (of_a, again):
        queue.remove(each)
    assert queue.weight(1) == 3.0
    assert set(queue.accounts(1)) == {b}


CLASSES = [ServiceClass.URGENT, ServiceClass.INTERACTIVE, ServiceClass.INTERACTIVE]
OPERATIONS = st.tuples(
    st.sampled_from(["add", "add", "add", "remove", "charge", "refund", "aside", "back", "ask"]),
    st.integers(0, 3),
    st.integers(0, 20),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(OPERATIONS, max_size=80))
def test_turns_are_those_of_a_list_that_is_sorted_anew(operations: list[tuple[str, int, int]]) -> None:
    """By service class, then again and again the first in line of the tenant with the least counter."""
    accounts = [TenantAccount(str(number)) for number in range(4)]
    queue, line, aside = FairQueue(), list[Sequence](), list[Sequence]()
    for number, (operation, index, value) in enumerate(operations):
        account = accounts[index]
        match operation:
            case "add":
                each = sequence((31 * number) % 83, account, CLASSES[value % 3])
                (queue.add_new if value % 2 else queue.add)(each)
                line.append(each)
            case "remove" if line:
                queue.remove(line.pop(value % len(line)))
            case "charge":
                account.charge_output(value)
            case "refund" if own := [each for each in line if each.account is account]:
                account.charge_prompt(-value)
                for each in own:
                    queue.advance(each)
            case "aside" if line:
                each = line.pop(value % len(line))
                queue.set_aside(each)
                aside.append(each)
            case "back" if aside:
                each = aside.pop(value % len(aside))
                queue.put_back(each)
                line.append(each)
            case "ask":
                first = min(line, key=_turn, default=None)
                assert queue.first is first
                assert queue.first_rank == (None if first is None else first.service.rank)
        if value % 3 == 0:  # else the check would put the heap right each time
            queue.check()
    expected = [each.id for each in sorted(line, key=_turn)]
    assert ids(queue) == expected
    assert len(queue) == len(line) + len(aside)


def _turn(each: Sequence) -> tuple[int, float, tuple[int, int, float, int]]:
    return each.service.rank, each.account.counter, each.order
