"""TemplateProcesses: what templates say comes over unchanged, and no template takes more than it may."""

import contextlib
import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import EngineStopped, InvalidRequest, ModelUnusable, StartupError, TextUnusable
from server.text.chat_templates import processes as template_processes
from server.text.chat_templates.chat_template import ChatTemplate
from server.text.chat_templates.direct_templates import DirectTemplates
from server.text.chat_templates.processes import TemplateProcesses
from server.text.chat_templates.runner import TemplateLimits, TemplateOverrun, TemplateRefusal, TemplateUnreadable
from tests.helpers.deadline import DEADLINE_S, wait_until

NUM_BYTES = 64 << 20
LOOP = "{% set xs = range(99999) | list %}{% for a in xs %}{% for b in xs %}{% endfor %}{% endfor %}"
CALLS = "{% set xs = range(99999) | list %}{% for a in xs %}{% for b in range(9999) %}{% endfor %}{% endfor %}"
CHAT = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def templates() -> Iterator[TemplateProcesses]:
    """Without a limit of time that a machine with other work could reach."""
    processes = TemplateProcesses(TemplateLimits(seconds=DEADLINE_S, num_bytes=NUM_BYTES))
    yield processes
    processes.close()


@pytest.fixture(scope="module")
def impatient() -> Iterator[TemplateProcesses]:
    processes = TemplateProcesses(TemplateLimits(seconds=0.2, num_bytes=NUM_BYTES))
    yield processes
    processes.close()


def _works(templates: TemplateProcesses) -> bool:
    """Whether it renders what takes no time, but for a machine that has other work."""
    try:
        return templates.render("{{ 1 + x }}", {"x": 1}) == "2"
    except TemplateOverrun:
        return False


def _growing(start: str, step: str, end: str) -> str:
    return (
        f"{{% set ns = namespace(x={start}) %}}{{% for i in range(64) %}}{{% set ns.x = {step} %}}{{% endfor %}}{end}"
    )


ENDLESS = {
    "loops without calls": LOOP,
    "a list of a list twice, 64 deep": _growing("[1]", "[ns.x, ns.x]", "{{ ns.x | tojson }}"),
    "a comparison of such lists": _growing("[[1], [1]]", "[[ns.x[0]] * 2, [ns.x[1]] * 2]", "{{ ns.x[0] == ns.x[1] }}"),
    "a square of a square": _growing("3", "ns.x * ns.x", ""),
    "a filter on and on": "{% set s = 'ab' * 999999 %}{% for i in range(9999) %}{% if s | upper == s %}{% endif %}"
    "{% endfor %}",
}
LARGE = {
    "a text that doubles": _growing("'xxxx'", "ns.x ~ ns.x", "{{ ns.x }}"),
    "a list that doubles": _growing("[1]", "ns.x + ns.x", ""),
    "a wide filter": "{{ 'x' | center(99999999999) }}",
    "a wide format": "{{ '{:>999999999}'.format(1) }}",
    "a number's bytes": "{{ (1).to_bytes(999999999, 'big') | length }}",
    "random words": "{{ lipsum(n=99999, min=999, max=1000) | length }}",
}


@pytest.mark.parametrize("source", [*ENDLESS.values(), *LARGE.values()], ids=[*ENDLESS, *LARGE])
def test_a_template_that_takes_too_much_is_ended(impatient: TemplateProcesses, source: str) -> None:
    with pytest.raises(TemplateOverrun, match=r"ran for more than|64 MiB of memory|was ended|characters"):
        impatient.render(source, {})
    wait_until(lambda: _works(impatient), "templates still run")


@pytest.mark.parametrize(
    "source",
    ["{{ '%0999999999d' % 1 }}", "{{ 'x' | center(99999999999) }}", "{{ (['x'] * 9) | join('x' | center(9999999)) }}"],
)
def test_constants_are_computed_within_the_limits(impatient: TemplateProcesses, source: str) -> None:
    """When a template is read: Jinja computes what is constant then."""
    with contextlib.suppress(TemplateOverrun):
        impatient.inspect(source)
    wait_until(lambda: _works(impatient), "templates still run")


@pytest.mark.parametrize(
    "source",
    ["{% for %}", "{{ " + "(" * 5000 + ")" * 5000 + " }}", "{% for x in [1] %}" * 99 + "{% endfor %}" * 99],
    ids=["syntax", "parentheses", "loops"],
)
def test_a_source_that_cannot_be_compiled_is_unreadable(impatient: TemplateProcesses, source: str) -> None:
    with pytest.raises((TemplateUnreadable, TemplateOverrun)):
        impatient.inspect(source)
    wait_until(lambda: _works(impatient), "templates still run")


def test_memory_is_limited_by_the_system(templates: TemplateProcesses) -> None:
    templates.render("x", {})
    (process,) = templates._all
    soft, _ = resource.prlimit(process._process.pid, resource.RLIMIT_AS)
    assert soft < NUM_BYTES + (256 << 20)  # of which a quarter is Python's and the libraries'


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(), values, max_size=4),
    max_leaves=20,
)
_ANY_TEXT = st.text(st.characters(), max_size=20)  # with halves of surrogate pairs


@given(value=_JSON, text=_ANY_TEXT)
@settings(max_examples=60, deadline=None)
def test_values_and_texts_come_over_unchanged(templates: TemplateProcesses, value: Any, text: str) -> None:
    source = "{{ value | tojson }}{{ text }}{% if value is none %}N{% endif %}"
    variables = {"value": value, "text": text}
    assert templates.render(source, variables) == DirectTemplates().render(source, variables)


def test_facts_and_refusals_come_over(templates: TemplateProcesses) -> None:
    source = "{% if a %}{{ raise_exception('not ' ~ b) }}{% endif %}"
    assert templates.inspect(source) == DirectTemplates().inspect(source)
    with pytest.raises(TemplateRefusal, match=r"^not é$"):
        templates.render(source, {"a": True, "b": "é"})


def test_a_process_that_died_is_replaced(templates: TemplateProcesses) -> None:
    assert templates.render("x", {}) == "x"
    for process in templates._all:
        process.kill()
        process._process.wait()
    assert templates.render("y", {}) == "y"


def test_closing_ends_what_runs() -> None:
    processes = TemplateProcesses()
    processes.render("x", {})
    errors: list[TemplateOverrun] = []

    def run() -> None:
        try:
            processes.render(LOOP, {})
        except TemplateOverrun as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: not processes._idle, "the template runs")
    processes.close()
    thread.join(DEADLINE_S)
    assert len(errors) == 1
    with pytest.raises(TemplateOverrun, match="the server is shutting down"):
        processes.render("x", {})


def _kill_all(processes: TemplateProcesses) -> None:
    for process in list(processes._all):
        process.kill()


@pytest.mark.parametrize("end", [_kill_all, TemplateProcesses.close])
def test_an_end_that_is_not_the_templates_fault_may_pass(end: Callable[[TemplateProcesses], None]) -> None:
    processes = TemplateProcesses(TemplateLimits(seconds=DEADLINE_S, num_bytes=NUM_BYTES))
    template = ChatTemplate(LOOP, {}, frozenset(), processes)
    with ThreadPoolExecutor() as executor:
        rendering = executor.submit(template.render, CHAT)
        wait_until(lambda: not processes._idle, "the template runs")
        end(processes)
        error = rendering.exception(DEADLINE_S)
    processes.close()
    assert isinstance(error, StartupError)
    assert not isinstance(error, ModelUnusable)
    with pytest.raises(StartupError, match="cannot be read now: the server is shutting down") as refused:
        ChatTemplate("x", {}, frozenset(), processes)
    assert not isinstance(refused.value, ModelUnusable)


def test_a_client_whose_rendering_a_shutdown_ends_is_not_at_fault() -> None:
    processes = TemplateProcesses(TemplateLimits(seconds=DEADLINE_S, num_bytes=NUM_BYTES))
    template = ChatTemplate(LOOP, {}, frozenset(), processes)
    template.end_trial()
    with ThreadPoolExecutor() as executor:
        rendering = executor.submit(template.render, CHAT)
        wait_until(lambda: not processes._idle, "the template runs")
        processes.close()
        error = rendering.exception(DEADLINE_S)
    assert isinstance(error, EngineStopped)
    assert str(error) == "the server is shutting down"


def test_real_time_that_other_work_may_have_taken_is_not_the_templates_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = TemplateProcesses(TemplateLimits(seconds=DEADLINE_S, num_bytes=NUM_BYTES))
    template = ChatTemplate(LOOP, {}, frozenset(), processes)
    monkeypatch.setattr(template_processes, "_CLOCK_FACTOR", 0.1 / DEADLINE_S)
    with pytest.raises(StartupError, match="cannot render a short chat now: it ran for more than") as refused:
        template.render(CHAT)
    assert not isinstance(refused.value, ModelUnusable)
    processes.close()


@pytest.mark.parametrize("source", [CALLS, LARGE["a list that doubles"]], ids=["time", "memory"])
def test_a_spent_budget_is_the_templates_fault(source: str) -> None:
    processes = TemplateProcesses(TemplateLimits(seconds=1.0, num_bytes=NUM_BYTES))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(template_processes, "_CLOCK_FACTOR", DEADLINE_S)  # not the machine's other work
        with pytest.raises(TextUnusable, match=r"cannot render a short chat: it (ran for more|needs more)"):
            ChatTemplate(source, {}, frozenset(), processes).render(CHAT)
    processes.close()


def test_a_template_on_trial_fails_the_start_and_later_the_request(impatient: TemplateProcesses) -> None:
    template = ChatTemplate(LOOP, {}, frozenset(), impatient)
    with pytest.raises(
        StartupError, match=r"render a short chat.*: it ran for more than .*give another: --chat-template"
    ):
        template.render(CHAT)
    template.end_trial()
    with pytest.raises(InvalidRequest, match="cannot render these messages: it ran for more than"):
        template.render(CHAT)
