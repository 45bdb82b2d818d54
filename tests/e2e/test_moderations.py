"""OpenAI's client gets moderations of a real model."""

import httpx
import openai
import pytest

from server.moderations.categories import Category
from tests.helpers.server_process import API_KEY, ServerProcess

THREAT = "I know where you live, and tonight I will come and break your legs."
HARMLESS = "The train to Lyon leaves at nine, and the ticket costs forty euros."


def test_the_python_client_moderates(server: ServerProcess) -> None:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key=API_KEY, http_client=httpx.Client(trust_env=False)
    ) as client:
        listed = client.moderations.create(model="demo", input=[THREAT, HARMLESS])
        single = client.moderations.create(model="demo", input=[{"type": "text", "text": HARMLESS}])
        with pytest.raises(openai.BadRequestError, match=r"input\[1\].*takes only text"):
            client.moderations.create(
                model="demo",
                input=[
                    {"type": "text", "text": HARMLESS},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                ],
            )
    threat, harmless = listed.results
    for result in (threat, harmless, *single.results):
        scores = result.category_scores.model_dump(by_alias=True)
        assert [*scores] == [category.value for category in Category]
        assert all(0 <= score <= 1 for score in scores.values())
        flags = {name: score >= 0.5 for name, score in scores.items()}
        assert result.categories.model_dump(by_alias=True) == flags
        assert result.flagged is any(flags.values())
        assert result.category_applied_input_types.illicit_violent == ["text"]
    assert len({threat.category_scores.violence, harmless.category_scores.violence}) == 2
    (alone,) = single.results
    assert alone.category_scores.to_dict() == pytest.approx(harmless.category_scores.to_dict(), abs=1e-4)
