"""How often a server's tool calls are right, by the cases and rules of the Berkeley Function Calling Leaderboard.

headrace serve MODEL --port 8000
python -m benchmarks.structured_outputs.function_calling --url http://127.0.0.1:8000 --folder bfcl --tool-choice auto

The folder has BFCL's `simple_python.jsonl`, `multiple.jsonl`, `parallel.jsonl` and `irrelevance.jsonl`, and an
`.answers.jsonl` beside each but the last. Whether calls fit their schemas is told if the `jsonschema` package is there.
"""

import argparse
import asyncio
import importlib.util
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.tables import markdown

CATEGORIES = ("simple_python", "multiple", "parallel", "irrelevance")
_JSON_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}
_IGNORED = re.compile(r"[ ,./\-_*^]")  # in strings, as BFCL compares them
_MAX_TOKENS = 256
_TIMEOUT_S = 600

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A question with its tools. answers: for each right call, its name -> key -> accepted values; none: no call."""

    id: str
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]]
    answers: Sequence[Mapping[str, Mapping[str, Sequence[Any]]]] = ()

    def schema(self, name: str) -> Schema | None:
        """Of the arguments of the tool with that name."""
        functions = (tool["function"] for tool in self.tools)
        return next((function["parameters"] for function in functions if function["name"] == name), None)


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: str  # JSON text

    def parsed(self) -> dict[str, Any] | None:
        """The arguments, or None if they are no JSON object."""
        try:
            value = json.loads(self.arguments)
        except json.JSONDecodeError:
            return None
        return value if isinstance(value, dict) else None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server returned for one case."""

    calls: Sequence[Call] = ()
    text: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Scored:
    id: str
    answer: Answer
    fault: str | None  # None: right
    num_fitting: int | None  # calls that fit their schema; None: not checked


# --- Cases -----------------------------------------------------------------------------------------------------------


def load_cases(folder: Path, category: str, limit: int | None) -> list[Case]:
    """The first cases of a category."""
    answers = {}
    if (file := folder / f"{category}.answers.jsonl").exists():
        answers = {row["id"]: row["ground_truth"] for row in _rows(file)}
    elif category != "irrelevance":
        raise FileNotFoundError(f"{file} is missing: it has the answers to {category}.jsonl")
    rows = _rows(folder / f"{category}.jsonl")[:limit]
    return [
        Case(
            row["id"],
            row["question"][0],
            [to_tool(function) for function in row["function"]],
            answers[row["id"]] if answers else (),
        )
        for row in rows
    ]


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]


def to_tool(function: Mapping[str, Any]) -> dict[str, Any]:
    """A function of BFCL, which has Python's types and dots in names, as a tool of OpenAI's API."""
    return {
        "type": "function",
        "function": {
            "name": tool_name(function["name"]),
            "description": function["description"],
            "parameters": json_schema(function["parameters"]),
        },
    }


def tool_name(name: str) -> str:
    return name.replace(".", "_")


def json_schema(schema: Schema) -> dict[str, Any]:
    """A JSON schema for one of BFCL, whose types are those of Python."""
    converted = dict(schema)
    if (kind := _JSON_TYPES.get(schema.get("type", ""), schema.get("type"))) is None:
        converted.pop("type", None)
    else:
        converted["type"] = kind
    if "properties" in schema:
        converted["properties"] = {key: json_schema(value) for key, value in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            converted[key] = json_schema(schema[key])
    return converted


# --- Scores ----------------------------------------------------------------------------------------------------------


def find_fault(case: Case, calls: Sequence[Call]) -> str | None:
    """What is wrong with the calls, or None. Their order is free, as BFCL has it."""
    if len(calls) != len(case.answers):
        return f"{len(calls)} calls instead of {len(case.answers)}"
    left = list(calls)
    for answer in case.answers:
        ((name, accepted),) = answer.items()
        faults = [_call_fault(case, call, tool_name(name), accepted) for call in left]
        if None not in faults:
            return faults[0]
        del left[faults.index(None)]
    return None


def _call_fault(case: Case, call: Call, name: str, accepted: Mapping[str, Sequence[Any]]) -> str | None:
    if call.name != name:
        return f"called {call.name} instead of {name}"
    arguments = call.parsed()
    if arguments is None:
        return "the arguments are no JSON object"
    schema = case.schema(name) or {}
    properties = schema.get("properties", {})
    for key, value in arguments.items():
        if key not in properties or key not in accepted:
            return f"argument {key} is unexpected"
        if not _is_accepted(value, accepted[key], properties[key]):
            return f"argument {key} is {value!r}"
    for key, values in accepted.items():
        if key not in arguments and (key in schema.get("required", ()) or "" not in values):
            return f"argument {key} is missing"
    return None


def _is_accepted(value: Any, accepted: Sequence[Any], schema: Schema) -> bool:
    return any(_is_same(value, each, schema) for each in accepted)


def _is_same(value: Any, accepted: Any, schema: Schema) -> bool:
    if isinstance(value, str) and isinstance(accepted, str):
        return _bare(value) == _bare(accepted)
    if isinstance(value, list) and isinstance(accepted, list):
        items = schema.get("items", {})
        return len(value) == len(accepted) and all(map(_is_same, value, accepted, [items] * len(value)))
    if isinstance(value, dict) and isinstance(accepted, dict):
        return _is_same_object(value, accepted, schema.get("properties", {}))
    if isinstance(value, bool) or isinstance(accepted, bool):
        return value is accepted
    if isinstance(value, float) and schema.get("type") == "integer" and not isinstance(accepted, float):
        return False
    return bool(value == accepted)  # 5 is the same as 5.0


def _is_same_object(value: Mapping[str, Any], accepted: Mapping[str, Sequence[Any]], properties: Schema) -> bool:
    return all(
        key in accepted and _is_accepted(each, accepted[key], properties.get(key, {})) for key, each in value.items()
    ) and all(key in value or "" in values for key, values in accepted.items())


def _bare(text: str) -> str:
    return _IGNORED.sub("", text).lower().replace("'", '"')


def count_fitting(case: Case, calls: Sequence[Call]) -> int | None:
    """The number of calls whose arguments fit their tool's schema; None without the jsonschema package."""
    if importlib.util.find_spec("jsonschema") is None:
        return None
    from jsonschema import Draft202012Validator

    num_fitting = 0
    for call in calls:
        schema, arguments = case.schema(call.name), call.parsed()
        if schema is not None and arguments is not None:
            num_fitting += Draft202012Validator(schema).is_valid(arguments)
    return num_fitting


# --- Requests --------------------------------------------------------------------------------------------------------


async def ask(client: httpx.AsyncClient, model: str, case: Case, tool_choice: str) -> Answer:
    body = {
        "model": model,
        "messages": case.messages,
        "tools": case.tools,
        "tool_choice": tool_choice,
        "temperature": 0,
        "max_tokens": _MAX_TOKENS,
    }
    try:
        response = await client.post("/v1/chat/completions", json=body)
    except httpx.HTTPError as error:
        return Answer(error=repr(error))
    if response.status_code != httpx.codes.OK:
        return Answer(error=f"{response.status_code} {response.text}")
    result = response.json()
    choice, usage = result["choices"][0], result["usage"]
    functions = [call["function"] for call in choice["message"].get("tool_calls") or ()]
    return Answer(
        [Call(function["name"], function["arguments"]) for function in functions],
        choice["message"].get("content") or "",
        choice["finish_reason"],
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )


async def measure(options: argparse.Namespace) -> None:
    """Prints the table, and writes the answers after every category."""
    scored: dict[str, list[Scored]] = {}
    seconds: dict[str, float] = {}
    limits = httpx.Limits(max_connections=options.concurrency)
    async with httpx.AsyncClient(base_url=options.url, timeout=httpx.Timeout(_TIMEOUT_S), limits=limits) as client:
        model = (await client.get("/v1/models")).raise_for_status().json()["data"][0]["id"]
        turns = asyncio.Semaphore(options.concurrency)

        async def score(case: Case) -> Scored:
            async with turns:
                answer = await ask(client, model, case, options.tool_choice)
            fault = answer.error or find_fault(case, answer.calls)
            return Scored(case.id, answer, fault, count_fitting(case, answer.calls))

        for category in CATEGORIES:
            if category == "irrelevance" and options.tool_choice == "required":
                continue  # every answer would be wrong
            cases = load_cases(options.folder, category, options.limit)
            start_s = time.perf_counter()
            scored[category] = await asyncio.gather(*map(score, cases))
            seconds[category] = time.perf_counter() - start_s
            if options.json is not None:
                found = {name: [asdict(each) for each in of_category] for name, of_category in scored.items()}
                options.json.write_text(json.dumps({"seconds": seconds, "cases": found}, indent=1))
    sys.stdout.write(show(scored, seconds) + "\n")


def show(scored: Mapping[str, Sequence[Scored]], seconds: Mapping[str, float]) -> str:
    """A Markdown table: a line for each category, and one for all."""
    head = ["", "right", "calls that fit", "errors", "prompt tokens", "output tokens", "seconds"]
    lines = [_line(category, each, seconds[category]) for category, each in scored.items()]
    everything = [each for of_category in scored.values() for each in of_category]
    return markdown(head, [*lines, _line("all", everything, sum(seconds.values()))])


def _line(label: str, scored: Sequence[Scored], seconds: float) -> list[str]:
    answers = [each.answer for each in scored]
    fitting = [each.num_fitting for each in scored if each.num_fitting is not None]
    return [
        label,
        f"{sum(each.fault is None for each in scored)} of {len(scored)}",
        f"{sum(fitting)} of {sum(len(answer.calls) for answer in answers)}" if fitting else "-",
        str(sum(bool(answer.error) for answer in answers)),
        f"{sum(answer.prompt_tokens for answer in answers):,}",
        f"{sum(answer.output_tokens for answer in answers):,}",
        f"{seconds:,.0f}",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--folder", type=Path, required=True, help="with BFCL's files")
    parser.add_argument("--tool-choice", choices=("auto", "required"), default="auto")
    parser.add_argument("--concurrency", type=int, default=4, help="requests at once")
    parser.add_argument("--limit", type=int, help="cases of each category (default: all)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write every answer and what is wrong with it")
    options = parser.parse_args()
    try:
        asyncio.run(measure(options))
    except (httpx.HTTPError, FileNotFoundError) as error:
        sys.stderr.write(f"function_calling: {options.url} or {options.folder}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
