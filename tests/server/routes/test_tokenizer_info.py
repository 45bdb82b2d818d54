"""GET /tokenizer_info, as lm-eval's RemoteTokenizer reads it."""

import pytest

from tests.helpers.fake_client import BOS, CHAT_TEMPLATE, IM_END, MAX_MODEL_LEN, FakeClient, http, make_app, says

pytestmark = pytest.mark.fast


async def test_the_tokenizer_is_described_as_in_vllm() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        answer = (await api.get("/tokenizer_info", params={"model": "org/tiny"})).json()
    assert (answer["bos_token"], answer["eos_token"]) == ("<|bos|>", "<|im_end|>")
    assert answer["chat_template"] == CHAT_TEMPLATE
    assert (answer["model_max_length"], answer["tokenizer_class"]) == (MAX_MODEL_LEN, "PreTrainedTokenizerFast")
    assert {each["content"] for each in answer["added_tokens_decoder"].values()} >= {"<|bos|>", "<|im_end|>"}
    assert answer["added_tokens_decoder"][str(IM_END)]["special"] is True
    assert str(BOS) in answer["added_tokens_decoder"]


async def test_an_unknown_model_has_no_tokenizer() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.get("/tokenizer_info", params={"model": "other"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
