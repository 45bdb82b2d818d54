"""Recipes in tests: a short one, answers to it, and runs of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.command_io.finetuning.data_preparation import PreparationOptions
from server.data.preparation import Preparation
from server.jobs.answers import BodyAnswer
from server.synthesis.recipe_file import load_recipe
from server.synthesis.requests import StepRequest
from server.synthesis.sources import open_source
from server.synthesis.synthesis import Bounds, Synthesis
from tests.helpers.data_lines import random_text

RECIPE = """
source: {kind: seeds, examples: 2}
variables: {language: English}
steps:
  - name: invent
    prompt: "In {language}: {examples}"
    fields: {task: string}
    checks: [{check: new, field: task}]
  - {name: reply, prompt: "{task}"}
output: {kind: chat, user: "{task}", assistant: "{reply}"}
"""
SEEDS = "First old task of mine.\n\nSecond old task of yours.\n\nThird old task of ours.\n"

BOUNDS = Bounds(num_lines=5, min_acceptance=0.05, wave=4)
Reply = str | int | list[tuple[str, str]]  # a text, the status of a refusal, or names and arguments of tool calls
Script = Callable[[StepRequest], Reply]


def completion(content: str | list[tuple[str, str]], finish_reason: str = "stop") -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if not isinstance(content, str):
        functions = [{"name": name, "arguments": arguments} for name, arguments in content]
        calls = [{"id": f"call_{n}", "type": "function", "function": each} for n, each in enumerate(functions)]
        message = {"role": "assistant", "content": None, "tool_calls": calls}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {"object": "chat.completion", "choices": [choice], "usage": usage, "system_fingerprint": "print"}


def answer_of(given: Reply, model: str) -> BodyAnswer:
    if isinstance(given, int):
        return BodyAnswer("", given, json.dumps({"error": {"message": "it is too long"}}).encode())
    fingerprint = {} if model == "model" else {"system_fingerprint": f"print of {model}"}
    return BodyAnswer("", 200, json.dumps(completion(given) | fingerprint).encode())


class Scripted:
    """Answers requests by a script, and notes them."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[StepRequest] = []

    async def __call__(self, requests: Sequence[StepRequest]) -> Mapping[str, BodyAnswer]:
        self.requests += requests
        return {request.custom_id: answer_of(self.script(request), request.body["model"]) for request in requests}


def invents(request: StepRequest) -> str:
    """Answer the first step with a task of its own, and others with a text."""
    number = int(request.custom_id[:6])
    text = random_text(int.from_bytes(request.custom_id.encode()[-8:]) % 10_000)
    return json.dumps({"task": random_text(number, 8)}) if "-invent-" in request.custom_id else text


def synthesis_of(
    folder: Path,
    script: Script,
    recipe: str = RECIPE,
    *,
    texts: str | None = SEEDS,
    name: str = "in.txt",
    seed: int = 0,
    bounds: Bounds = BOUNDS,
    evaluation: Sequence[tuple[int, bytes]] = (),
) -> tuple[Synthesis, Scripted]:
    """Return a run of `recipe`, and its answers. texts: of the source's file `name`; None for a source of no files."""
    (folder / "recipe.yaml").write_text(recipe)
    if texts is not None:
        (folder / name).write_text(texts)
    loaded, _ = load_recipe(str(folder / "recipe.yaml"), {})
    preparation = Preparation(PreparationOptions(), ["out.jsonl"])
    preparation.add_evaluation("eval.jsonl", evaluation)
    items = open_source(loaded.source, [] if texts is None else [str(folder / name)], seed)
    answers = Scripted(script)
    return Synthesis(loaded, items, seed, "model", bounds, preparation, answers), answers


def lines_of(synthesis: Synthesis) -> list[dict[str, Any]]:
    return [json.loads(line.data) for line in synthesis.preparation.kept]
