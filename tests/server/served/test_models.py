"""ServedModels: which model a request means, of those that its caller may ask for."""

from collections.abc import Callable, Iterator

import pytest

from engine.config import EngineConfig
from engine.errors import EngineUnavailable, ModelUnusable, OptionError, QueueFull, StartupError, TextUnusable
from server.config.server import ServerConfig
from server.drain import Drain
from server.errors import ModelFailed, ModelNotFound
from server.keys.caller import ANYBODY, Caller, set_current_caller
from server.live.feed import LiveFeed
from server.metrics.values import Metrics
from server.served import model as served_model
from server.served.model import UNUSABLE_TEXT, ServedModel
from server.served.models import ServedModels
from server.text.chat_templates.direct_templates import DirectTemplates
from server.text.workers import TextWorkers
from tests.helpers.fake_client import FakeClient, says

pytestmark = pytest.mark.fast


def _raises(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def _model(*names: str) -> ServedModel:
    client = FakeClient(says(names[0]))
    return ServedModel(
        names=names,
        root=names[0],
        engine=EngineConfig(model=names[0]),
        client=client,
        config=ServerConfig(),
        metrics=Metrics(names[0]),
        honors_priority=False,
        drain=Drain(),
        live=LiveFeed(client),
        workers=TextWorkers(),
        templates=DirectTemplates(),
    )


@pytest.fixture
def models() -> ServedModels:
    return ServedModels([_model("big", "gpt-4"), _model("small")])


@pytest.fixture(autouse=True)
def _anybody() -> Iterator[None]:
    set_current_caller(ANYBODY)
    yield
    set_current_caller(ANYBODY)


def _may_use(*names: str) -> None:
    set_current_caller(Caller(owner="o", is_operator=False, reads_metrics=False, models=frozenset(names)))


@pytest.mark.parametrize(("name", "canonical"), [(None, "big"), ("big", "big"), ("gpt-4", "big"), ("small", "small")])
def test_each_name_has_its_model_and_no_name_the_first(models: ServedModels, name: str | None, canonical: str) -> None:
    assert models.find(name).name == canonical


def test_an_unknown_name_is_told_with_all_that_there_are(models: ServedModels) -> None:
    with pytest.raises(ModelNotFound, match="'huge' is not served here; this server has 'big', 'gpt-4', 'small'"):
        models.find("huge")


def test_a_caller_sees_and_gets_only_what_its_key_allows(models: ServedModels) -> None:
    _may_use("gpt-4", "small")
    assert models.visible_names == ("gpt-4", "small")
    assert models.find("gpt-4").name == "big"
    with pytest.raises(ModelNotFound, match="'big' is not served here; this server has 'gpt-4', 'small'"):
        models.find("big")
    with pytest.raises(ModelNotFound, match="the request has no model, and its key does not allow the default one"):
        models.find(None)


def test_a_queue_is_full_only_if_each_is(models: ServedModels) -> None:
    big, small = models
    assert isinstance(big.client, FakeClient)
    assert isinstance(small.client, FakeClient)
    big.client.capacity = 0
    models.check_queue()
    small.client.capacity = 0
    with pytest.raises(QueueFull):
        models.check_queue()


def test_what_is_unfinished_is_that_of_all(models: ServedModels) -> None:
    big, small = models
    with big.preparing(), small.preparing(), small.preparing():
        assert models.num_unfinished == 3
    assert models.num_unfinished == 0


def test_a_drain_refuses_what_is_new_and_not_what_was_taken() -> None:
    model = _model("m")
    model.check_admission()
    model.drain.start(0.0)
    with pytest.raises(EngineUnavailable):
        model.check_admission()
    model.check_engine()


@pytest.mark.parametrize("error", [TextUnusable("damaged"), ModelUnusable("/a/file"), OptionError("no such parser")])
async def test_a_text_model_that_cannot_be_built_is_told_for_good(
    monkeypatch: pytest.MonkeyPatch, error: StartupError
) -> None:
    monkeypatch.setattr(served_model, "build_text_model", _raises(error))
    model = _model("m")
    with pytest.raises(ModelFailed, match="until its operator changes it") as refused:
        await model.text_model()
    assert (refused.value.retry_after_s, model.text_problem) == (None, UNUSABLE_TEXT)
    assert "/a/file" not in str(refused.value)


async def test_a_text_model_that_could_not_be_built_now_invites_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_model, "build_text_model", _raises(StartupError("it was ended")))
    model = _model("m")
    with pytest.raises(EngineUnavailable, match="could not be prepared; try again later") as refused:
        await model.text_model()
    assert not isinstance(refused.value, ModelFailed)
    assert model.text_problem not in (None, UNUSABLE_TEXT)
    monkeypatch.undo()
    await model.text_model()
    assert model.text_problem is None


async def test_a_text_model_that_could_not_be_built_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model("m")
    with monkeypatch.context() as broken:
        broken.setattr(served_model, "build_text_model", _raises(TextUnusable("the chat template is damaged")))
        with pytest.raises(StartupError):
            await model.prepare_text()
        with pytest.raises(ModelFailed, match="until its operator changes it: the chat template is damaged"):
            await model.text_model()
    assert model.capabilities == []
    assert await model.text_model() is await model.text_model()
    assert model.capabilities
