"""`headrace bench serve` as a user runs it: its report on screen, in JSON and as a plot, which needs fonts listed."""

import asyncio
import json
from pathlib import Path

import pytest

from server import cli
from tests.helpers.fake_openai import FakeServer, serving


async def test_the_command_reports_on_screen_in_json_and_as_a_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(FakeServer(cached_tokens=0)) as url:
        arguments = (
            f"bench serve --url {url} --num-prompts 4 --input-len 20 --output-len 9 --goodput ttft:10000 tpot:9999"
        )
        files = ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
        code = await asyncio.to_thread(cli.main, [*arguments.split(), *files])
    assert code == 0
    shown = capsys.readouterr().out
    assert "output tokens/s" in shown
    assert "goodput, requests/s (ttft:10000 tpot:9999)" in shown
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["model"] == "fake/model"
    assert result["config"]["num_prompts"] == 4
    assert result["summary"]["output_tokens"] == 36
    assert result["summary"]["request_goodput"] == result["summary"]["request_throughput"]
    assert [record["prompt_tokens"] for record in result["requests"]] == [20] * 4
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
