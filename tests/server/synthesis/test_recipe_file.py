"""Recipes: built-in ones are valid, and faults of others are refused with what there is."""

from pathlib import Path

import pytest

from engine.errors import OptionError
from server.synthesis.checks import Length
from server.synthesis.recipe import Step
from server.synthesis.recipe_file import built_in_recipes, load_recipe
from server.synthesis.variables import filled
from tests.helpers.synthesis import RECIPE

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("name", list(built_in_recipes()))
def test_built_in_recipes_are_valid(name: str) -> None:
    recipe, path = load_recipe(name, {})
    assert recipe.name == name == path.stem
    assert recipe.description


@pytest.mark.parametrize("name", list(built_in_recipes()))
def test_built_in_fields_have_room_for_as_many_words_as_their_checks_allow(name: str) -> None:
    recipe, _ = load_recipe(name, {})
    for step in recipe.steps:
        most_words = {check.field: check.most for check in step.checks if isinstance(check, Length)}
        for field, most in step.most_characters.items():
            assert most >= 7 * most_words.get(field, 0)


def test_codes_of_a_fixed_length_have_no_limit_that_cuts_them_off() -> None:
    code = {"type": "string", "minLength": 5, "maxLength": 5}
    kind = {"type": "string", "enum": ["short", "long"], "maxLength": 5}
    text = {"type": "string", "minLength": 1, "maxLength": 5}
    step = Step(name="ask", prompt="?", fields={"code": code, "kind": kind, "text": text, "number": "integer"})
    assert step.most_characters == {"text": 5}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "kind: seeds,",
            "kind: seed,",
            r"source.kind: Invalid value 'seed'; there is seeds, prompts, chats, documents, tools, none",
        ),
        (
            "examples: 2",
            "exmples: 2",
            r"source: it has the unknown field exmples; there is examples, accepted, files, passes, words",
        ),
        ("check: new", "check: fresh", r"steps.0..checks.0..check: .*'fresh'; there is new, occurs, least"),
        ("- {name: reply", "- {nam: reply", r"steps.1.: it .*; there is name, prompt, system"),
        (
            '{task}"}\noutput',
            '{tusk}"}\noutput',
            r"step reply: prompt reads \{tusk\}; at this place there is examples, ",
        ),
        ('user: "{task}"', 'user: "{question}"', r"output: user reads \{question\}"),
        ("field: task}", "field: reply}", r"step invent: the check new reads \{reply\}"),
        (
            "fields: {task: string}",
            "fields: {task: text}",
            r"step invent: field task has the type 'text'; there is str",
        ),
        ("fields: {task: string}", "fields: {language: string}", r"step invent: 'language' is taken or no name"),
        ("- {name: reply", "- {temperature: 3, name: reply", r"step reply: temperature is 3; it must be from 0 to 2"),
        ("- {name: reply", "- {models: [a, b], name: reply", r"step reply: it has 2 models and 1 samples; give"),
        (
            "- {name: reply",
            '- {models: ["{task}"], name: reply',
            r"step reply: models reads \{task\}; .* there is language",
        ),
        ("output: {kind: chat", "output: {kind: chat, best: stars", r"output: best reads \{stars\}"),
        (
            "output: {kind: chat",
            "output: {kind: chat, best: reply",
            r"output: best is reply, which is no field of a type integer or number",
        ),
        (
            "output: {kind: chat",
            "output: {kind: preference",
            r"output: it lacks the field best",
        ),
        ("language: English", "language: []", r"variables.language is an empty list; give values to draw from"),
        ("variables:", "quality: [nice]\nvariables:", r"quality has 'nice'.*there are the groups gopher"),
        ("source:", "source: [", r"line \d+: not valid YAML"),
        ("output:", "outputs:", r"the file: it has the unknown field outputs; there is source, steps, output"),
    ],
)
def test_faults_are_refused_with_what_there_is(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in RECIPE
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE.replace(old, new))
    with pytest.raises(OptionError, match=f"recipe {path}: {message}"):
        load_recipe(str(path), {})


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("tool-calls", "offered: 4", "offered: 0", "source: offered is 0; it must be from 1 to 128"),
        (
            "tool-calls",
            "field: call,",
            "field: request,",
            "step call: the check calls reads request, which is no step w",
        ),
        ("tool-calls", "  calls: call", "  calls: judge", "output: calls reads judge, which .* there is call"),
        (
            "tool-calls",
            "calls: true ",
            "calls: true\n    fields: {a: string} ",
            "step call: calls: true needs a source",
        ),
        (
            "documents",
            "- name: find",
            "- name: find\n    calls: true",
            "step find: calls: true needs a source of the k",
        ),
        (
            "magpie",
            "role: user",
            'role: user\n    prompt: "x"',
            "step question: the model writes the user's message, so",
        ),
        ("magpie", '    prompt: "{question}"', "", "step answer: prompt is empty; give a text"),
    ],
)
def test_steps_that_contradict_themselves_are_refused(
    tmp_path: Path, name: str, old: str, new: str, message: str
) -> None:
    text = built_in_recipes()[name].read_text()
    assert old in text
    (tmp_path / "mine.yaml").write_text(text.replace(old, new))
    with pytest.raises(OptionError, match=message):
        load_recipe(str(tmp_path / "mine.yaml"), {})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("samples: 4", "samples: 1", "output: a preference compares samples, and no step has several"),
        ("gap: 1 ", "gap: 0 ", "output: gap is 0; it must be more than 0"),
        (
            'user: "{prompt}"',
            'user: "{reply}"',
            r"output: user reads \{reply\}, which differs from sample to sample; .* earlier step",
        ),
    ],
)
def test_preferences_need_samples_of_one_prompt(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = built_in_recipes()["preferences"].read_text()
    assert old in text
    (tmp_path / "mine.yaml").write_text(text.replace(old, new))
    with pytest.raises(OptionError, match=message):
        load_recipe(str(tmp_path / "mine.yaml"), {})


def test_a_recipe_that_is_not_there_is_refused_with_the_built_in_ones() -> None:
    with pytest.raises(OptionError, match=r"cannot read the recipe nothing: .*one of documents"):
        load_recipe("nothing", {})


def test_variables_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE)
    assert load_recipe(str(path), {"language": "German"})[0].variables == {"language": "German"}
    with pytest.raises(OptionError, match="no variable 'tone' to set; there is language"):
        load_recipe(str(path), {"tone": "kind"})


def test_other_braces_of_a_prompt_stay() -> None:
    assert filled('{a} {"b": {c}} {d e}', {"a": 1, "c": "x"}) == '1 {"b": x} {d e}'
