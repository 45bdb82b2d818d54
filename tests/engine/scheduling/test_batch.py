"""The class of batches: it runs while no client has work, and what it does is counted apart."""

from typing import Any

import pytest

from engine.grammar.sequence_grammar import SequenceGrammar
from engine.protocol import EngineRequest, ServiceClass
from tests.helpers.engines import SchedulerRun, make_config, make_prompt, make_request
from tests.helpers.ledger import EOS_ID

pytestmark = pytest.mark.fast


def line(name: str, length: int = 5, **fields: Any) -> EngineRequest:
    return _request(name, length, ServiceClass.BATCH, **fields)


def client(
    name: str, length: int = 5, service_class: ServiceClass = ServiceClass.INTERACTIVE, **fields: Any
) -> EngineRequest:
    return _request(name, length, service_class, **fields)


def _request(
    name: str, length: int, service_class: ServiceClass, *, prompt_of: str | None = None, **fields: Any
) -> EngineRequest:
    """prompt_of: another one with the same."""
    prompt = make_prompt(length, seed=sum((prompt_of or name).encode()))
    return make_request(name, prompt, ignore_eos=True, service_class=service_class, **fields)


def planned(run: SchedulerRun) -> dict[str, int]:
    """The tokens of each sequence in the next step, which is made."""
    run.step()
    return {name: num_new for name, num_new, _ in run.plans[-1]}


@pytest.mark.parametrize("service_class", [ServiceClass.URGENT, ServiceClass.INTERACTIVE, ServiceClass.BACKGROUND])
def test_a_batch_stops_the_moment_a_client_waits(service_class: ServiceClass) -> None:
    run = SchedulerRun(make_config())
    run.add(line("a"))
    run.add(line("b", 9))
    assert planned(run) == {"a": 5, "b": 9}
    run.add(client("c", service_class=service_class))
    assert planned(run) == {"c": 5}


def test_what_a_batch_does_is_counted_apart() -> None:
    run = SchedulerRun(make_config(max_num_seqs=2))
    for name in "abc":
        run.add(line(name, 6))
    run.step()
    run.step()
    first, second = run.stats
    assert (first.batch_prefill_tokens, first.batch_decode_tokens) == (12, 0)
    assert (second.batch_prefill_tokens, second.batch_decode_tokens) == (0, 2)
    assert (second.running_batch, second.waiting_batch) == (2, 1)
    assert (second.running, second.waiting, second.prefix_queries) == (0, 0, 0)
    assert (second.prefill_tokens, second.decode_tokens) == (0, 0)


def test_what_preemption_costs_a_batch_is_counted_apart() -> None:
    run = SchedulerRun(make_config(num_blocks=8, block_size=4))
    run.add(line("a", 6))
    run.step()
    run.step()  # 7 tokens are computed, of them one full block of 4
    run.add(client("c", 28, max_tokens=1))  # takes 7 of 8 blocks; the line has 2
    run.step()
    assert (run.stats[-1].batch_preemptions, run.stats[-1].preemptions) == (1, 0)
    run.step()
    stats = run.stats[-1]
    assert (stats.batch_recomputed_tokens, stats.batch_prefill_tokens, stats.batch_decode_tokens) == (3, 3, 1)
    assert stats.recomputed_tokens == 0


def test_a_batch_goes_on_where_it_stopped() -> None:
    run = SchedulerRun(make_config(block_size=4))
    run.add(line("a", 20))
    run.step()
    run.add(client("c", max_tokens=1))
    assert planned(run) == {"c": 5}
    assert planned(run) == {"a": 1}  # of 20 tokens 5 blocks are cached, and of what follows nothing was computed


def test_a_batch_waits_while_a_client_has_work() -> None:
    run = SchedulerRun(make_config())
    run.add(client("c", 3, max_tokens=4))
    run.add(line("a"))
    assert [planned(run) for _ in range(5)] == [{"c": 3}, {"c": 1}, {"c": 1}, {"c": 1}, {"a": 5}]


def test_a_batch_runs_while_the_grammar_of_a_client_is_compiled() -> None:
    run = SchedulerRun(make_config())
    grammar = SequenceGrammar(frozenset([EOS_ID]), appends_forced=True)
    run.scheduler.add(client("c", grammar="start: /a*/"), grammar)
    run.add(line("a"))
    assert planned(run) == {"a": 5}


def test_a_batch_leaves_half_of_the_blocks_to_what_clients_have_cached() -> None:
    run = SchedulerRun(make_config(num_blocks=16, block_size=4))
    for name in "cdef":
        run.add(client(name, 15, max_tokens=1))  # 3 full blocks each stay cached
        run.finish()
    assert run.stats[-1].blocks_cached == 12
    for name in ("l", "m", "n"):
        run.add(line(name, 13, max_tokens=3))  # 4 blocks each
    assert planned(run) == {"l": 13, "m": 13}
    run.finish()
    hits = 0
    for name in "cdef":
        run.add(client(name + "2", 15, max_tokens=1, prompt_of=name))
        run.step()
        hits += run.stats[-1].prefix_hits
    assert hits >= 8 * 4 // 2


def test_what_a_batch_leaves_in_the_cache_goes_before_what_clients_left() -> None:
    run = SchedulerRun(make_config(num_blocks=8, block_size=4))
    run.add(client("c", 13, max_tokens=1))  # 3 full blocks stay cached
    run.finish()
    run.add(line("l", 13, max_tokens=1))  # 3 more, later ones
    run.finish()
    run.add(client("d", 17, max_tokens=1))  # takes 5 blocks
    run.finish()
    run.add(client("c2", 13, max_tokens=1, prompt_of="c"))
    run.step()
    assert run.stats[-1].prefix_hits == 12


def test_a_prefix_that_a_client_shares_with_a_batch_is_the_clients() -> None:
    run = SchedulerRun(make_config(num_blocks=8, block_size=4))
    run.add(line("l", 13, max_tokens=1))
    run.finish()
    run.add(client("l2", 13, max_tokens=1, prompt_of="l"))
    run.finish()
    run.add(line("m", 21, max_tokens=1))  # takes 6 blocks: 5 are blank
    run.finish()
    run.add(client("l3", 13, max_tokens=1, prompt_of="l"))
    run.step()
    assert run.stats[-1].prefix_hits >= 8


def test_a_line_that_needs_all_blocks_has_them() -> None:
    run = SchedulerRun(make_config(num_blocks=8, block_size=4))
    run.add(client("c", 29, max_tokens=1))
    run.finish()
    run.add(line("l", 13, max_tokens=19))
    assert len(run.finish().ids["l"]) == 19
