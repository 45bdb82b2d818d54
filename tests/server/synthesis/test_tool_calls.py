"""Calls of given tools: the requests that lead to them, and the calls that are dropped."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.command_io.finetuning.job import TrainingMethod
from engine.errors import StartupError
from server.finetuning.lines import TrainingChat, read_training_line
from server.synthesis.recipe import Tools
from server.synthesis.recipe_file import built_in_recipes
from server.synthesis.requests import StepRequest
from server.synthesis.sources import open_source
from server.synthesis.synthesis import Bounds
from tests.helpers.data_lines import random_text
from tests.helpers.synthesis import Reply, lines_of, synthesis_of

pytestmark = pytest.mark.fast

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": name, "description": f"Get {name}.", "parameters": CITY}}
    for name in ("weather", "traffic", "news", "time")
]
FILE = "".join(f"{json.dumps(tool if index else tool['function'])}\n" for index, tool in enumerate(TOOLS))


def _items(folder: Path, text: str, **options: Any) -> Any:
    (folder / "tools.jsonl").write_text(text)
    return open_source(Tools(**options), [str(folder / "tools.jsonl")], 0)


def test_each_tool_is_offered_with_others_that_are_drawn(tmp_path: Path) -> None:
    items = _items(tmp_path, FILE, offered=2, passes=3)
    taken = items.take(0, 100, [])
    assert len(taken) == 12
    assert {item.values["tool_name"] for item in taken[:4]} == {tool["function"]["name"] for tool in TOOLS}
    for item in taken:
        offered = {tool["function"]["name"]: tool for tool in item.values["tools"]}
        assert len(offered) == 2
        assert offered[item.values["tool_name"]]["function"] == item.values["tool"]
    assert taken[5:7] == items.take(5, 2, [])
    assert len({tuple(tool["function"]["name"] for tool in item.values["tools"]) for item in taken}) > 4
    assert len(_items(tmp_path, FILE, offered=9).take(0, 1, [])[0].values["tools"]) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FILE + FILE, "line 5: there is another tool weather; give each its own name"),
        ('{"name": "a b"}\n', "line 1: it is not the definition of a tool: .*name is 'a b'; it must be 1 to 128"),
        ("7\n", "line 1: it is not the definition of a tool"),
        ('{"name": "a", "parameters": {"type": "array"}}\n', "arguments are an object"),
    ],
)
def test_faulty_definitions_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(StartupError, match=message):
        _items(tmp_path, text)


async def test_valid_calls_become_lines_that_jobs_take(tmp_path: Path) -> None:
    pytest.importorskip("rensa", reason="the extra 'data' is not installed")
    replies: list[Reply] = [
        [],
        [("weather", "{")],
        [("weather", '{"town": 1}')],
        [("sport", '{"city": "Rome"}')],
        "It is warm.",
    ]

    def script(request: StepRequest) -> Reply:
        item = int(request.custom_id[:6])
        if "-ask-" in request.custom_id:
            return json.dumps({"request": random_text(item, 9)})
        if "-judge-" in request.custom_id:
            return json.dumps({"reason": "", "score": 5})
        offered = {tool["function"]["name"] for tool in request.body["tools"]}
        other = next(iter(offered - {targets[item]}))
        return replies[item] if item < 5 else [(other if item == 5 else targets[item], '{"city": "Rome"}')]

    recipe = built_in_recipes()["tool-calls"].read_text()
    run = {"texts": FILE, "name": "tools.jsonl", "bounds": Bounds(2, 0, 8)}
    synthesis, answers = synthesis_of(tmp_path, script, recipe, **run)  # type: ignore[arg-type]
    targets = [item.values["tool_name"] for item in synthesis.items.take(0, 8, [])]
    assert await synthesis.run() is None
    assert synthesis.counts["call"].faults == {
        "no tool call": 2,
        "arguments are not valid JSON": 1,
        "arguments do not match the tool's schema": 1,
        "calls a tool that is not offered": 1,
        "call is of another tool": 1,
    }
    call = next(each.body for each in answers.requests if "-call-" in each.custom_id)
    assert (call["tool_choice"], call["parallel_tool_calls"], len(call["tools"])) == ("required", False, 4)
    for line, target in zip(lines_of(synthesis), targets[6:], strict=True):
        assert line["messages"][1]["tool_calls"][0]["function"] == {"name": target, "arguments": '{"city": "Rome"}'}
        content, _ = read_training_line(json.dumps(line).encode(), TrainingMethod.SUPERVISED)
        assert isinstance(content, TrainingChat)
        assert [tool.function.name for tool in content.fields.tools or []] == [
            tool["function"]["name"] for tool in line["tools"]
        ]
