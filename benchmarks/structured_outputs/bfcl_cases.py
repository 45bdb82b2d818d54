"""Cases of the Berkeley Function Calling Leaderboard, with tools as OpenAI's API has them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CATEGORIES = ("simple_python", "multiple", "parallel", "irrelevance")
_JSON_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A question with its tools. answers: accepted values by name and key, for each right call; empty: no call."""

    id: str
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]]
    answers: Sequence[Mapping[str, Mapping[str, Sequence[Any]]]] = ()

    def schema(self, name: str) -> Schema | None:
        """Return the schema of the arguments of the tool with that name."""
        functions = (tool["function"] for tool in self.tools)
        return next((function["parameters"] for function in functions if function["name"] == name), None)


def load_cases(folder: Path, category: str, limit: int | None) -> list[Case]:
    """Return the first cases of a category."""
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
    """Convert a function of BFCL, with Python's types and dots in names, to a tool of OpenAI's API."""
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
    """Convert a schema of BFCL, which has Python's types, to a JSON schema."""
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
