"""Sources: the items of files, the same for the same seed."""

import json
from pathlib import Path

import pytest

from engine.errors import OptionError, StartupError
from server.synthesis.recipe import Chats, Documents, NoSource, Prompts, Seeds
from server.synthesis.recipe_file import load_recipe
from server.synthesis.sources import open_source
from tests.helpers.repository import ROOT

pytestmark = pytest.mark.fast


def _written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_examples_are_drawn_from_seeds_and_accepted_tasks(tmp_path: Path) -> None:
    chats = [
        {"messages": [{"role": "user", "content": f"seed {n}"}, {"role": "assistant", "content": "x"}]} for n in (1, 2)
    ]
    path = _written(tmp_path / "a.jsonl", "".join(f"{json.dumps(chat)}\n" for chat in chats))
    source = Seeds(examples=2, accepted=1)
    items = open_source(source, [path], 1)
    assert items.texts == ["seed 1", "seed 2"]
    (item,) = items.take(0, 1, [])
    assert sorted(item.values["examples"].splitlines()) == sorted(item.values["examples"].splitlines())
    assert {line[3:] for line in item.values["examples"].splitlines()} == {"seed 1", "seed 2"}
    taken = items.take(0, 8, ["accepted"])
    assert all("accepted" in each.values["examples"] for each in taken)
    assert taken == open_source(source, [path], 1).take(0, 8, ["accepted"])
    assert taken[3:5] == items.take(3, 2, ["accepted"])
    assert taken != open_source(source, [path], 2).take(0, 8, ["accepted"])


def test_documents_are_divided_at_paragraphs_and_sentences(tmp_path: Path) -> None:
    text = "One two three.\n\nFour five.\n\nSix seven eight nine. Ten eleven twelve. Thirteen.\n"
    path = _written(tmp_path / "a.md", text)
    items = open_source(Documents(words=5, passes=2), [path], 0).take(0, 100, [])
    parts = {item.values["document"]: item.origin for item in items}
    assert parts == {
        "One two three.\n\nFour five.": "a.md:1",
        "Six seven eight nine.": "a.md:5",
        "Ten eleven twelve. Thirteen.": "a.md:5",
    }
    assert len(items) == 6
    assert open_source(Documents(words=5), [path], 0).take(3, 5, []) == []


def test_prompts_are_the_first_questions_of_lines(tmp_path: Path) -> None:
    prompt = {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "One?"}]}
    lines = _written(tmp_path / "a.jsonl", f"{json.dumps(prompt)}\n")
    text = _written(tmp_path / "b.txt", "Two?\n\nThree?\n")
    items = open_source(Prompts(passes=2), [lines, text], 0)
    taken = items.take(0, 100, [])
    assert sorted((item.values["prompt"], item.origin) for item in taken[:3]) == [
        ("One?", "a.jsonl:1"),
        ("Three?", "b.txt:3"),
        ("Two?", "b.txt:1"),
    ]
    assert len(taken) == 6
    assert items.texts == ["One?", "Two?", "Three?"]


def test_chats_give_a_question_and_its_answer(tmp_path: Path) -> None:
    question, first, second = (
        {"role": role, "content": text} for role, text in (("user", "Q?"), ("assistant", "A."), ("assistant", "B."))
    )
    pair = {"input": {"messages": [question]}, "non_preferred_output": [second], "preferred_output": [first]}
    lines = [{"messages": [question, first]}, pair, {"prompt": "Q?", "completion": "A."}]
    path = _written(tmp_path / "a.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
    taken = open_source(Chats(), [path], 0).take(0, 9, [])
    assert [item.values for item in taken] == [{"prompt": "Q?", "answer": "A.", "file": "a.jsonl"}] * 3
    for text, missing in (
        ('{"messages": [{"role": "user", "content": "Q?"}]}', "answer"),
        ('{"text": "A."}', "question"),
    ):
        with pytest.raises(StartupError, match=f"line 1: it has no {missing}; chats have both"):
            open_source(Chats(), [_written(tmp_path / "b.jsonl", f"{text}\n")], 0)


def test_a_source_of_nothing_has_no_end_and_takes_no_files() -> None:
    items = open_source(NoSource(), [], 0)
    assert [(each.number, each.values) for each in items.take(7, 2, ["x"])] == [(7, {}), (8, {})]
    with pytest.raises(OptionError, match=r"source is none, so it reads no files; leave a\.txt out"):
        open_source(NoSource(), ["a.txt"], 0)


def test_faulty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="needs files; give --input"):
        open_source(Seeds(), [], 0)
    with pytest.raises(StartupError, match="the seeds have 1 tasks, and 3 examples"):
        open_source(Seeds(), [_written(tmp_path / "a.txt", "one\n")], 0)
    with pytest.raises(OptionError, match=r"has the suffix \.pdf; \.jsonl, .* are read"):
        open_source(Documents(), ["a.pdf"], 0)
    with pytest.raises(OptionError, match=r"cannot read .*b\.md"):
        open_source(Documents(), [str(tmp_path / "b.md")], 0)
    with pytest.raises(StartupError, match="line 2: it has no text"):
        open_source(Documents(), [_written(tmp_path / "c.jsonl", '{"text": "a"}\n{"messages": []}\n')], 0)
    with pytest.raises(StartupError, match="has no lines"):
        open_source(Documents(), [_written(tmp_path / "d.txt", "\n")], 0)


def test_the_recipe_of_the_examples_has_items_enough_for_a_job() -> None:
    recipe, path = load_recipe(str(ROOT / "examples" / "workshop_recipe.yaml"), {})
    files = [str(path.parent / name) for name in recipe.source.files]
    assert len(open_source(recipe.source, files, 0).take(0, 1_000, [])) == 250
    assert [(path.parent / name).is_file() for name in recipe.against] == [True]
