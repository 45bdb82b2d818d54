"""Decisions through OpenAI's, TypeSafe's and LangChain's clients and LiteLLM, in both shapes.

Arguments: the server, its key and the model.
"""

import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it looks for prices on another server

import litellm
import openai
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai.decisions import Choice, OpenAIDecisions, Predicate, Score
from typesafe_sdk import Choice as Labels
from typesafe_sdk import Noul, TypeSafeClient, TypeSafeNotFoundError, TypeSafeUnprocessableEntityError
from typesafe_sdk import Score as Levels

TEXT = "I was charged twice. Please help today."
TEAMS = {"billing": "payments and refunds", "delivery": None}
LEVELS = ["can wait", "this week", "today"]
QUESTIONS = [
    {"type": "predicate", "name": "complaint", "instructions": "The writer complains."},
    {"type": "choice", "name": "team", "instructions": "Who helps?", "choices": [{"value": team} for team in TEAMS]},
    {"type": "score", "name": "urgency", "instructions": "How urgent?", "levels": [{"label": each} for each in LEVELS]},
]
NAMED = {
    "complaint": {"type": "noul", "instructions": "Does the writer complain?"},
    "team": {"type": "choice", "criteria": TEAMS},
    "urgency": {"type": "score", "instructions": "How urgent?", "criteria": LEVELS},
}


def check(complaint: float, teams: dict, levels: dict) -> None:
    """Check the numbers of three answers."""
    assert 0 <= complaint <= 1
    assert teams.keys() == TEAMS.keys()
    assert {int(level) for level in levels} == {0, 1, 2}
    for shares in (teams, levels):
        assert abs(sum(shares.values()) - 1) < 1e-6


def openai_client(url: str, key: str, model: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=120) as client:
        extra = {"min_mass": 0, "permutations": 2, "details": True}
        answers = client.decisions.create(model=model, input=TEXT, questions=QUESTIONS, extra_body=extra).answers
        complaint, team, urgency = answers
        check(
            complaint.probability,
            {each.value: each.probability for each in team.probabilities},
            {each.value: each.probability for each in urgency.probabilities},
        )
        assert abs(sum(team.details["raw_probabilities"]) - team.details["mass"]) < 1e-6
        refused = client.decisions.create(model=model, input=TEXT, questions=QUESTIONS, extra_body={"min_mass": 1})
        assert [each.type for each in refused.answers] == ["refusal"] * 3


def typesafe(url: str, key: str, model: str) -> None:
    questions = {
        "complaint": Noul(criteria={"true": "a complaint", "false": "anything else"}),
        "team": Labels(instructions="Who helps?", criteria=TEAMS),
        "urgency": Levels(instructions="How urgent?", criteria=LEVELS),
    }
    with TypeSafeClient(base_url=url, api_key=key, model=model, timeout=120, compression=False) as client:
        result = client.system_one(state={"message": TEXT}, questions=questions, extra_body={"min_mass": 0})
        urgency = result.scores["urgency"]
        check(result.nouls["complaint"].noul, result.choices["team"].probabilities, urgency.probabilities)
        assert urgency.legend == dict(enumerate(LEVELS))
        assert result.request_id == result.raw_http_response.headers["x-request-id"]
        assert client.system_one(state=TEXT, questions=questions, extra_body={"min_mass": 1}).answers == {}
        for state, changes, expected in (
            ("", {}, TypeSafeUnprocessableEntityError),
            (TEXT, {"model": "jev-latest"}, TypeSafeNotFoundError),
        ):
            try:
                client.system_one(state=state, questions=questions, **changes)
            except expected as error:
                assert error.request_id
            else:
                raise AssertionError(f"{expected.__name__} was expected")


def langchain(url: str, key: str, model: str) -> None:
    decisions = OpenAIDecisions(model=model, base_url=f"{url}/v1", api_key=key)
    questions = {
        "complaint": Predicate(instructions="The writer complains."),
        "team": Choice(instructions="Who helps?", choices=TEAMS),
        "urgency": Score(instructions="How urgent?", levels=LEVELS),
    }
    for state in (TEXT, [SystemMessage("Be strict."), HumanMessage(TEXT)]):
        answers = decisions.invoke({"input": state, "questions": questions}).answers
        assert answers.keys() == questions.keys()
        if not any(answer.type == "refusal" for answer in answers.values()):
            check(answers["complaint"].probability, answers["team"].probabilities, answers["urgency"].probabilities)


def lite_llm(url: str, key: str, model: str) -> None:
    litellm.telemetry = False
    answers = litellm.decisions(
        model=f"openai/{model}", api_base=f"{url}/v1", api_key=key, input=TEXT, questions=QUESTIONS
    ).answers
    assert [answer.name for answer in answers] == [*NAMED]
    for way, base in {"openai": f"{url}/v1", "typesafe": url, "hosted_vllm": f"{url}/v1"}.items():
        result = litellm.systemone(model=f"{way}/{model}", api_base=base, api_key=key, state=TEXT, questions=NAMED)
        assert result.usage.input_tokens, way
        assert result.answers.keys() <= NAMED.keys(), way
        if result.answers.keys() == NAMED.keys():
            named = result.answers
            check(named["complaint"].noul, named["team"].probabilities, named["urgency"].probabilities)


def main(url: str, key: str, model: str, _: str) -> None:
    for step in (openai_client, typesafe, langchain, lite_llm):
        print(step.__name__, flush=True)
        step(url, key, model)


if __name__ == "__main__":
    main(*sys.argv[1:])
