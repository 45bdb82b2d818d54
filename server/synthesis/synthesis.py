"""Synthesis: takes items through the steps of a recipe, wave by wave, and keeps the lines that pass."""

import json
import math
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.data.preparation import Preparation
from server.data.words import words_of
from server.jobs.answers import BodyAnswer
from server.synthesis.checks import Pool, cut_fault, first_fault
from server.synthesis.counts import StepCounts
from server.synthesis.recipe import Step, SynthesisRecipe
from server.synthesis.requests import REFUSED, StepRequest, Unusable, error_message, read_step_answer, step_request
from server.synthesis.sources import Items, SourceItem
from server.synthesis.variables import filled

FILTERS = "filters"  # the last row of the counts
_LEAST_ITEMS = 20  # before the share of accepted ones says something

Answer = Callable[[Sequence[StepRequest]], Awaitable[Mapping[str, BodyAnswer]]]  # by custom_id


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of a run. num_lines: accepted ones. min_acceptance: least share of items that become lines."""

    num_lines: int
    min_acceptance: float
    wave: int  # items that take each step together


@dataclass(slots=True)
class _Branch:
    """The values of an item; one for each sample once a step has several. fingerprint: of the run's model, from its
    last answer; other models have their own."""

    item: SourceItem
    name: str
    values: dict[str, Any]
    fingerprint: str = ""


@dataclass
class Synthesis:
    """A run of a recipe. It depends on the recipe, the files, the seed and the answers alone: with the answers that a
    journal has, a second run makes the same requests and the same lines.

    preparation: the filters; its kept lines are the result. answer: answers requests; may raise to stop the run.
    taught: names of the steps that a teacher answers. step_models: the teacher's models of steps, in place of `model`.
    """

    recipe: SynthesisRecipe
    items: Items
    seed: int
    model: str
    bounds: Bounds
    preparation: Preparation
    answer: Answer
    taught: Collection[str] = ()
    step_models: Mapping[str, str] = field(default_factory=dict)
    on_progress: Callable[[int], None] = lambda _: None
    counts: dict[str, StepCounts] = field(default_factory=dict)
    num_items: int = 0  # that were taken to their end
    is_exhausted: bool = False  # the source has no more items

    def __post_init__(self) -> None:
        self.counts = {name: StepCounts() for name in (*(step.name for step in self.recipe.steps), FILTERS)}
        self._pool = Pool()
        self._questions: list[str] = []  # of accepted lines
        self._error = ""  # of a request that the server refused
        for text in self.items.texts:
            self._pool.add(words_of(text))

    @property
    def num_lines(self) -> int:
        return len(self.preparation.kept)

    async def run(self) -> str | None:
        """Make lines until there are enough; return the reason if the run stops before."""
        while self.num_lines < self.bounds.num_lines:
            items = self.items.take(self.num_items, self._next_wave(), self._questions)
            if not items:
                self.is_exhausted = True
                if self.num_items and not self.num_lines:
                    return (
                        f"none of the {self.num_items:,} items became a line: look at the reasons, then change the "
                        "recipe, or give a stronger model"
                    )
                return f"the source has no more items than {self.num_items:,}; raise its passes, or give more files"
            num_refused = self._num_refused()
            branches = [_Branch(item, f"{item.number:06}", self._values(item)) for item in items]
            for step in self.recipe.steps:
                branches = await self._take_step(step, branches)
            self._finish(branches)
            self.num_items += len(items)
            if self._num_refused() - num_refused >= len(items):
                return f"the server refuses the requests: {self._error}"
            if self.num_items >= _LEAST_ITEMS and self.num_lines < self.bounds.min_acceptance * self.num_items:
                return (
                    f"{self.num_lines:,} of {self.num_items:,} items became lines, less than --min-acceptance "
                    f"{self.bounds.min_acceptance:.0%}: look at the reasons, then change the recipe, or give a "
                    "stronger model"
                )
        return None

    def _values(self, item: SourceItem) -> dict[str, Any]:
        """Return an item's first variables; of a list in the recipe, the value that is drawn."""
        draw = random.Random(f"{self.seed}:{item.number}")
        given = self.recipe.variables.items()
        return {name: each if isinstance(each, str) else draw.choice(each) for name, each in given} | item.values

    def _next_wave(self) -> int:
        """Return a number of items that gives the lines that are left, at the acceptance so far."""
        left = self.bounds.num_lines - self.num_lines
        rate = self.num_lines / self.num_items if self.num_lines else 1.0
        return min(self.bounds.wave, math.ceil(left / rate))

    def _num_refused(self) -> int:
        return sum(each.faults[REFUSED] for each in self.counts.values())

    async def _take_step(self, step: Step, branches: Sequence[_Branch]) -> list[_Branch]:
        """Return the branches that pass a step, in the items' order."""
        default = self.step_models.get(step.name, self.model)
        sent: list[tuple[_Branch, StepRequest]] = []
        for branch in branches:
            for sample in range(step.samples):
                name = f"{branch.name}.{sample}" if step.samples > 1 else branch.name
                model = filled(step.models[sample % len(step.models)], branch.values) or default
                is_taught = step.name in self.taught
                place = f"{name}-{step.name}"
                request = step_request(step, branch.values, place, model, self.seed, is_taught=is_taught)
                sent.append((_Branch(branch.item, name, branch.values, branch.fingerprint), request))
        answers = await self.answer([request for _, request in sent]) if sent else {}
        passed = []
        counts = self.counts[step.name]
        limits = {name: most for name, most in step.most_characters.items() if name in self.recipe.read_names}
        for branch, request in sent:
            answer = answers[request.custom_id]
            try:
                values, fingerprint = read_step_answer(step, request, answer)
            except Unusable as error:
                counts.faults[str(error)] += 1
                if not answer.is_completed:
                    self._error = error_message(answer)
                continue
            branch.values = {**branch.values, **values}
            if request.body["model"] == self.model and step.name not in self.step_models:
                branch.fingerprint = fingerprint
            fault = cut_fault(limits, values) or first_fault(step.checks, branch.values, self._pool)
            if fault is not None:
                counts.faults[fault] += 1
                continue
            counts.passed += 1
            passed.append(branch)
        return passed

    def _finish(self, branches: Sequence[_Branch]) -> None:
        """Make a line of each item that has branches left, and keep it if it passes the filters."""
        by_item: dict[int, list[_Branch]] = {}
        for branch in branches:
            by_item.setdefault(branch.item.number, []).append(branch)
        for number, own in by_item.items():
            if self.num_lines >= self.bounds.num_lines:
                return
            samples = [branch.values for branch in own]
            line = self.recipe.output.line(samples)
            if isinstance(line, str):
                self.counts[FILTERS].faults[line] += 1
                continue
            question = filled(self.recipe.output.user, self.recipe.output.best_of(samples))
            self._keep({**line, "metadata": self._metadata(own)}, number, question)
            self.on_progress(self.num_lines)

    def _keep(self, line: dict[str, Any], number: int, question: str) -> None:
        before = {name: each.num for name, each in self.preparation.report.removed.items()}
        num_before = self.num_lines
        self.preparation.add(0, number, json.dumps(line, ensure_ascii=False).encode())
        counts = self.counts[FILTERS]
        if self.num_lines > num_before:
            counts.passed += 1
            self._questions.append(question)
            return
        for name, each in self.preparation.report.removed.items():
            if each.num > before.get(name, 0):
                counts.faults[name] += 1

    def _metadata(self, branches: Sequence[_Branch]) -> dict[str, Any]:
        item = branches[0].item
        found: dict[str, Any] = {
            "recipe": self.recipe.name,
            "seed": self.seed,
            "item": item.number,
            "model": self.model,
            "fingerprint": next((branch.fingerprint for branch in branches if branch.fingerprint), ""),
        }
        if self.step_models:
            found["teacher"] = dict(self.step_models)
        return {**found, "origin": item.origin} if item.origin else found
