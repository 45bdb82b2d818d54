"""Synthesis: items become lines step by step, and each that does not is counted with its reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.command_io.finetuning.job import TrainingMethod
from server.finetuning.lines import Preference, read_training_line
from server.jobs.answers import AnswerUsage, BodyAnswer
from server.synthesis.counts import acceptance_table
from server.synthesis.recipe import Step
from server.synthesis.recipe_file import built_in_recipes
from server.synthesis.requests import StepRequest, Unusable, read_step_answer, step_request
from server.synthesis.synthesis import Bounds
from tests.helpers.data_lines import chat, encoded, random_text
from tests.helpers.synthesis import RECIPE, completion, invents, lines_of, synthesis_of

pytest.importorskip("rensa", reason="the extra 'data' is not installed")
pytestmark = pytest.mark.fast

STEP = Step(name="reply", prompt="Say a.")
REQUEST = step_request(STEP, {}, "000000", "model", 0)


async def test_lines_are_made_and_name_their_origin(tmp_path: Path) -> None:
    synthesis, answers = synthesis_of(tmp_path, invents)
    assert await synthesis.run() is None
    lines = lines_of(synthesis)
    assert len(lines) == 5
    for line in lines:
        assert line["metadata"].keys() == {"recipe", "seed", "item", "model", "fingerprint"}
        assert (line["metadata"]["recipe"], line["metadata"]["fingerprint"]) == ("recipe", "print")
        content, _ = read_training_line(json.dumps(line).encode(), TrainingMethod.SUPERVISED)
        del line["metadata"]
        assert read_training_line(json.dumps(line).encode(), TrainingMethod.SUPERVISED)[0] == content
    first = answers.requests[0].body
    assert first["messages"][0]["content"].startswith("In English: 1. ")
    assert first["response_format"]["json_schema"]["schema"]["required"] == ["task"]
    reply = next(each for each in answers.requests if "-reply-" in each.custom_id)
    assert reply.body["messages"] == [{"role": "user", "content": random_text(0, 8)}]
    assert "response_format" not in reply.body


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1, 2]", b'{"choices": [], "usage": "much"}'])
def test_what_another_server_sends_in_place_of_an_answer_is_unusable_and_costs_nothing(body: bytes) -> None:
    answer = BodyAnswer("", 200, body)
    assert answer.usage == AnswerUsage()
    with pytest.raises(Unusable, match="not a chat completion"):
        read_step_answer(STEP, REQUEST, answer)


def test_a_usage_below_zero_counts_as_none() -> None:
    usage = BodyAnswer("", 200, b'{"usage": {"prompt_tokens": -5, "completion_tokens": 3}}').usage
    assert (usage.input_tokens, usage.output_tokens) == (0, 3)


async def test_of_a_list_of_values_each_item_draws_one_by_the_seed(tmp_path: Path) -> None:
    recipe = RECIPE.replace("language: English", "language: [English, German, Thai]")
    drawn = []
    for seed in (1, 1, 2):
        synthesis, answers = synthesis_of(tmp_path, invents, recipe, seed=seed, bounds=Bounds(20, 0, 20))
        await synthesis.run()
        contents = (each.body["messages"][0]["content"] for each in answers.requests if "-invent-" in each.custom_id)
        drawn.append([content.split(":")[0] for content in contents])
    assert set(drawn[0]) == {"In English", "In German", "In Thai"}
    assert drawn[0] == drawn[1] != drawn[2]


async def test_the_same_seed_makes_the_same_requests(tmp_path: Path) -> None:
    runs = []
    for seed in (1, 1, 2):
        synthesis, answers = synthesis_of(tmp_path, invents, seed=seed)
        await synthesis.run()
        runs.append((answers.requests, lines_of(synthesis)))
    assert runs[0] == runs[1]
    assert not {each.custom_id for each in runs[0][0]} & {each.custom_id for each in runs[2][0]}


async def test_answers_that_do_not_pass_are_counted_with_their_reasons(tmp_path: Path) -> None:
    faulty = {0: "no JSON", 1: '{"other": 1}', 2: json.dumps({"task": "First old task of mine"}), 3: 400, 4: "[]"}

    def script(request: StepRequest) -> str | int:
        number = int(request.custom_id[:6])
        if "-reply-" in request.custom_id and number in (6, 7):
            return "" if number == 6 else random_text(8, 8)  # the task itself
        return (
            faulty.get(number, json.dumps({"task": random_text(number + 1, 8)}))
            if "-inv" in request.custom_id
            else invents(request)
        )

    synthesis, _ = synthesis_of(tmp_path, script)
    assert await synthesis.run() is None
    counts = synthesis.counts
    assert counts["invent"].faults == {
        "not valid JSON": 1,
        "lacks a field": 2,
        "task is not new": 1,
        "refused by the server": 1,
    }
    assert counts["reply"].faults == {"empty": 1}
    assert counts["filters"].faults == {"chat_echo": 1}
    assert (counts["filters"].passed, synthesis.num_lines) == (5, 5)
    assert "filters        6        5    83%  chat_echo 1" in acceptance_table(counts)


async def test_texts_that_the_grammar_cut_off_are_dropped_if_anything_reads_them(tmp_path: Path) -> None:
    fields = "task: {type: string, maxLength: 300}, why: {type: string, maxLength: 10}"
    recipe = RECIPE.replace("task: string", fields).replace("    checks: [{check: new, field: task}]\n", "")

    def script(request: StepRequest) -> str:
        number = int(request.custom_id[:6])
        task = random_text(number, 99)[:300] if number == 1 else f"{random_text(number, 8)}."
        return json.dumps({"task": task, "why": "w" * 10}) if "-invent-" in request.custom_id else invents(request)

    synthesis, _ = synthesis_of(tmp_path, script, recipe, bounds=Bounds(3, 0, 4))
    assert await synthesis.run() is None
    assert synthesis.counts["invent"].faults == {"task is cut off": 1}
    assert not [line for line in lines_of(synthesis) if len(line["messages"][0]["content"]) == 300]


async def test_lines_of_the_evaluation_and_near_duplicates_are_dropped(tmp_path: Path) -> None:
    leak = random_text(900)
    replies = {0: leak, 1: random_text(901), 2: random_text(901), 3: random_text(903)}
    recipe = RECIPE.replace("    checks: [{check: new, field: task}]\n", "")

    def script(request: StepRequest) -> str:
        number = int(request.custom_id[:6])
        return json.dumps({"task": f"Say it {number}."}) if "-invent-" in request.custom_id else replies[number]

    bounds = Bounds(num_lines=4, min_acceptance=0, wave=4)
    synthesis, _ = synthesis_of(tmp_path, script, recipe, bounds=bounds, evaluation=[(1, encoded(chat("Q?", leak)))])
    with pytest.raises(KeyError):  # the script has four items
        await synthesis.run()
    assert synthesis.counts["filters"].faults == {"contaminated": 1, "near_duplicate": 1}
    assert synthesis.num_lines == 2


async def test_the_best_of_several_samples_is_chosen(tmp_path: Path) -> None:
    recipe = RECIPE.replace("{name: reply, ", "{name: reply, samples: 3, ").replace(
        "output: {kind: chat,",
        "  - {name: judge, prompt: '{reply}', fields: {score: integer}}\noutput: {kind: chat, best: score,",
    )
    texts = [random_text(n) for n in (1, 2, 3)]

    def script(request: StepRequest) -> str:
        if "-invent-" in request.custom_id:
            return json.dumps({"task": "Do it."})
        sample = int(request.custom_id[7])
        return texts[sample] if "-reply-" in request.custom_id else json.dumps({"score": [2, 5, 3][sample]})

    synthesis, answers = synthesis_of(tmp_path, script, recipe, bounds=Bounds(1, 0, 4))
    assert await synthesis.run() is None
    assert lines_of(synthesis)[0]["messages"][1]["content"] == texts[1]
    seeds = {each.body["seed"] for each in answers.requests if "-reply-" in each.custom_id}
    assert len(seeds) == 3


async def test_the_best_and_the_worst_of_samples_make_a_pair(tmp_path: Path) -> None:
    scores = {0: [2, 5, 1, 3], 1: [4, 4, 4, 4], 2: [5, 0, 0, 0]}  # by item; 0: not a number

    def script(request: StepRequest) -> str:
        item, sample = int(request.custom_id[:6]), int(request.custom_id[7])
        if "-reply-" in request.custom_id:
            return random_text(10 * item + sample)
        return json.dumps({"reason": "So.", "score": scores[item][sample] or "many"})

    recipe = built_in_recipes()["preferences"].read_text()
    synthesis, answers = synthesis_of(tmp_path, script, recipe, bounds=Bounds(3, 0, 3))
    assert "no more items than 3" in (await synthesis.run() or "")
    assert synthesis.counts["judge"].faults == {"score is not a number": 3}
    assert synthesis.counts["filters"].faults == {"the samples' score is too close": 1, "one sample is left": 1}
    (line,) = lines_of(synthesis)
    sent = {each.custom_id[:8]: each.body for each in answers.requests if "-reply-" in each.custom_id}
    assert len({body["seed"] for body in sent.values()}) == 12
    prompt = sent["000000.0"]["messages"]
    content, _ = read_training_line(json.dumps(line).encode(), TrainingMethod.DPO)
    assert isinstance(content, Preference)
    assert line.pop("metadata")["origin"].startswith("in.txt:")
    assert line == {
        "input": {"messages": prompt},
        "preferred_output": [{"role": "assistant", "content": random_text(1)}],
        "non_preferred_output": [{"role": "assistant", "content": random_text(2)}],
    }


async def test_self_play_asks_both_players_and_a_judge_by_their_names(tmp_path: Path) -> None:
    recipe = built_in_recipes()["self-play"].read_text()
    for variable, name in (("opponent", "earlier"), ("judge", "wise")):
        recipe = recipe.replace(f'{variable}: ""', f"{variable}: {name}")

    def script(request: StepRequest) -> str:
        if "-reply-" in request.custom_id:
            return random_text(["model", "earlier"].index(request.body["model"]))
        return json.dumps({"reason": "", "score": 5 if random_text(0) in request.body["messages"][0]["content"] else 1})

    synthesis, answers = synthesis_of(tmp_path, script, recipe, bounds=Bounds(1, 0, 1))
    await synthesis.run()
    assert [each.body["model"] for each in answers.requests] == ["model", "earlier"] * 2 + ["wise"] * 4
    (line,) = lines_of(synthesis)
    assert line["preferred_output"][0]["content"] == random_text(0)
    assert line["non_preferred_output"][0]["content"] == random_text(1)
    assert (line["metadata"]["model"], line["metadata"]["fingerprint"]) == ("model", "print")


async def test_answers_of_one_opponent_are_not_those_of_another(tmp_path: Path) -> None:
    ids = []
    for opponent in ("earlier", "latest"):
        recipe = built_in_recipes()["self-play"].read_text().replace('opponent: ""', f"opponent: {opponent}")
        synthesis, answers = synthesis_of(tmp_path, lambda _: "A reply.", recipe, bounds=Bounds(1, 0, 1))
        await synthesis.run()
        ids.append([each.custom_id for each in answers.requests if "-reply-" in each.custom_id])
    one, other = ids
    assert (one[0::2], set(one[1::2]) & set(other[1::2])) == (other[0::2], set())


async def test_examples_come_from_the_question_that_was_kept(tmp_path: Path) -> None:
    recipe = (
        RECIPE.replace("{kind: seeds, examples: 2}", "{kind: seeds, examples: 1, accepted: 1}")
        .replace("- name: invent", "- name: invent\n    samples: 2")
        .replace("output: {", "  - {name: judge, prompt: '{reply}', fields: {score: integer}}\noutput: {best: score, ")
    )

    def script(request: StepRequest) -> str:
        sample = int(request.custom_id[7])
        if "-judge-" in request.custom_id:
            return json.dumps({"score": sample})
        return json.dumps({"task": random_text(sample)}) if "-invent-" in request.custom_id else random_text(5 + sample)

    synthesis, answers = synthesis_of(tmp_path, script, recipe, bounds=Bounds(2, 0.5, 1))
    await synthesis.run()
    assert random_text(1) in answers.requests[6].body["messages"][0]["content"]


async def test_equal_answers_make_no_pair(tmp_path: Path) -> None:
    def script(request: StepRequest) -> str:
        return (
            "The same." if "-reply-" in request.custom_id else json.dumps({"reason": "", "score": request.body["seed"]})
        )

    recipe = built_in_recipes()["preferences"].read_text()
    synthesis, _ = synthesis_of(tmp_path, script, recipe, bounds=Bounds(3, 0, 3))
    await synthesis.run()
    assert synthesis.counts["filters"].faults == {"the samples' score is too close": 3}


async def test_the_model_writes_questions_at_the_users_turn_and_answers_them(tmp_path: Path) -> None:
    recipe = built_in_recipes()["magpie"].read_text()

    def script(request: StepRequest) -> str:
        item = int(request.custom_id[:6])
        if "-answer-" in request.custom_id:
            return random_text(100 + item)
        return "Write a poem about the sea." if item < 2 else random_text(item)

    synthesis, answers = synthesis_of(tmp_path, script, recipe, texts=None, bounds=Bounds(3, 0, 4))
    assert await synthesis.run() is None
    first, second = answers.requests[0].body, answers.requests[1].body
    assert first["messages"][0]["content"].startswith("You are a helpful assistant for questions about ")
    assert first["messages"][1:] == [{"role": "user", "content": ""}]
    assert first["continue_final_message"] is True
    assert first["seed"] != second["seed"]
    reply = next(each.body for each in answers.requests if "-answer-" in each.custom_id)
    assert reply["messages"] == [{"role": "user", "content": "Write a poem about the sea."}]
    assert "continue_final_message" not in reply
    assert synthesis.counts["question"].faults == {"question is not new": 1}
    assert lines_of(synthesis)[0]["messages"][0] == {"role": "user", "content": "Write a poem about the sea."}


async def test_a_run_stops_if_too_few_items_become_lines(tmp_path: Path) -> None:
    bounds = Bounds(num_lines=100, min_acceptance=0.5, wave=7)
    synthesis, _ = synthesis_of(tmp_path, lambda _: json.dumps({"task": "Always the same task."}), bounds=bounds)
    assert (await synthesis.run() or "").startswith("1 of 21 items became lines, less than --min-acceptance 50%")


async def test_a_run_stops_if_the_server_refuses_all_requests(tmp_path: Path) -> None:
    synthesis, answers = synthesis_of(tmp_path, lambda _: 400)
    assert await synthesis.run() == "the server refuses the requests: it is too long"
    assert len(answers.requests) == 4


async def test_a_run_ends_with_its_source(tmp_path: Path) -> None:
    recipe = RECIPE.replace("{kind: seeds, examples: 2}", "{kind: documents, words: 3}").replace(
        "{examples}", "{document}"
    )
    synthesis, _ = synthesis_of(tmp_path, invents, recipe)
    assert (await synthesis.run() or "").startswith("the source has no more items than 3")
    assert synthesis.is_exhausted
    assert {line["metadata"]["origin"] for line in lines_of(synthesis)} == {"in.txt:1", "in.txt:3", "in.txt:5"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (completion("a b", "length"), "cut off"),
        ({"choices": []}, "not a chat completion"),
        ({}, "not a chat completion"),
    ],
)
def test_answers_that_are_no_whole_texts_are_dropped(body: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        read_step_answer(STEP, REQUEST, BodyAnswer("", 200, json.dumps(body).encode()))
