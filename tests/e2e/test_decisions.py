"""OpenAI's client gets decisions of a real model."""

import httpx
import openai
import pytest

from tests.helpers.server_process import API_KEY, ServerProcess

INPUT = "The parcel came two weeks late, and nobody answers the phone. I want my money back!"


@pytest.mark.parametrize("model", ["demo", "adapted"])
def test_the_python_client_decides(server: ServerProcess, model: str) -> None:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key=API_KEY, http_client=httpx.Client(trust_env=False)
    ) as client:
        cold, warm = [
            client.decisions.create(
                model=model,
                input=INPUT,
                questions=[
                    {"type": "predicate", "name": "complaint", "instructions": "The writer complains."},
                    {
                        "type": "choice",
                        "instructions": "Which team should read it?",
                        "choices": [{"value": "late delivery"}, {"value": "late payment"}, {"value": True}],
                    },
                    {
                        "type": "score",
                        "instructions": "How angry is the writer?",
                        "levels": [{"label": "calm"}, {"label": "annoyed"}, {"label": "furious"}],
                    },
                ],
                extra_body={"min_mass": 0},
            )
            for _ in range(2)
        ]
    predicate, choice, score = cold.answers
    assert (predicate.type, predicate.name) == ("predicate", "complaint")
    assert 0 <= predicate.probability <= 1
    assert choice.type == "choice"
    assert [each.value for each in choice.probabilities] == ["late delivery", "late payment", True]
    assert score.type == "score"
    assert sum(each.probability for each in score.probabilities) == pytest.approx(1)
    again, *_ = warm.answers
    assert again.type == "predicate"
    assert again.probability == pytest.approx(predicate.probability, abs=1e-5)
    assert warm.usage.input_tokens_details.cached_tokens > warm.usage.input_tokens / 2
    assert warm.usage.total_tokens == cold.usage.input_tokens
