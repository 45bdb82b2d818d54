"""The effects of /commands on a conversation."""

import json
from pathlib import Path

import pytest

from server.commands.chat.talk import CommandProblem, Talk, with_file

pytestmark = pytest.mark.fast


def test_settings_are_json_where_they_can_be() -> None:
    talk = Talk(model="m")
    talk.set("temperature 0.2")
    talk.set("stop END")
    talk.set("seed 7")
    talk.set("seed")
    assert talk.body() == {"model": "m", "messages": [], "temperature": 0.2, "stop": "END"}


@pytest.mark.parametrize("words", ["", "model x", "messages []", "stream false"])
def test_what_is_no_setting_is_refused(words: str) -> None:
    with pytest.raises(CommandProblem):
        Talk(model="m").set(words)


def test_undo_and_retry() -> None:
    talk = Talk(model="m", system="be brief")
    talk.ask("one")
    talk.answered("1")
    talk.ask("two")
    talk.answered("2")
    talk.drop_answer()
    assert [each["content"] for each in talk.body()["messages"]] == ["be brief", "one", "1", "two"]
    talk.undo()
    assert [each["content"] for each in talk.messages] == ["one", "1"]
    talk.undo()
    with pytest.raises(CommandProblem, match="no question"):
        talk.undo()


def test_a_file_is_sent_in_a_fence_that_it_does_not_close(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("```\ncode\n```")
    text = with_file(f"{tmp_path}/a.md What is it?")
    assert text == "a.md:\n````\n```\ncode\n```\n````\n\nWhat is it?"


def test_files_that_cannot_be_sent(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large").write_bytes(b"x" * (1 << 20 | 1))
    for words, reason in (("", "which file"), ("missing", "No such file"), ("binary", "UTF-8"), ("large", "limit")):
        with pytest.raises(CommandProblem, match=reason):
            with_file(words and f"{tmp_path}/{words}")


def test_a_conversation_is_saved(tmp_path: Path) -> None:
    talk = Talk(model="m", system="be brief")
    talk.ask("one")
    talk.save(tmp_path / "c.md")
    talk.save(tmp_path / "c.json")
    assert (tmp_path / "c.md").read_text() == "## System\n\nbe brief\n\n## You\n\none\n"
    assert json.loads((tmp_path / "c.json").read_text()) == talk.body()["messages"]
    with pytest.raises(CommandProblem, match="cannot be written"):
        talk.save(tmp_path / "missing" / "c.md")
