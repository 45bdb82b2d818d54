"""POST /v1/decisions: what the model reads of an input and its questions, and where it is cut."""

import pytest

from server.decisions.wording import QUESTION_BEGIN
from tests.helpers.decisions import BODY, PREDICATE, decide, decision_client, marked, post, refused
from tests.helpers.fake_client import BOS, CHAT_TEMPLATE, prompt_text

pytestmark = pytest.mark.fast


async def test_the_prompt_has_the_state_first_and_the_question_before_the_answer() -> None:
    client = decision_client()
    response = await post(client, BODY)
    assert response.headers["x-decision-wording"] == "3"
    assert prompt_text(client) == (
        f"user\nInput:\nA raft.{QUESTION_BEGIN}: Is the following statement about the input true?\n"
        "It floats.\nassistant\n"
    )
    assert prompt_text(client, 1).endswith(
        "Question: What is it?\nOptions:\nboat: it carries people\nboats\ntrue\n"
        "Answer with the text of one option.\nassistant\n"
    )
    assert {request.cache_salt for request in client.requests} == {""}


async def test_options_that_read_alike_are_numbered() -> None:
    client = decision_client()
    question = {"type": "choice", "instructions": "", "choices": [{"value": True}, {"value": "true"}]}
    answer = await decide(client, {**BODY, "questions": [question]})
    assert [each["value"] for each in answer["answers"][0]["probabilities"]] == [True, "true"]
    assert (
        'Which option fits the input best?\nOptions:\n1. true\n2. "true"\n'
        "Answer with the number of one option instead of its text."
    ) in prompt_text(client)
    assert client.requests[0].sampling.logprob_token_ids == (ord("1"), ord("2"))


ITEMS = [
    {"role": "developer", "content": [{"type": "input_text", "text": "Be strict."}]},
    {"type": "message", "role": "user", "content": [{"type": "input_json", "data": {"a": [1, "é"]}}]},
    {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "1", "output": "a raft"},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
]


async def test_items_are_read_with_their_speakers() -> None:
    client = decision_client()
    await decide(client, {**BODY, "input": ITEMS})
    assert (
        'Input:\ndeveloper: Be strict.\n\nuser: {"a":[1,"é"]}\n\nassistant calls look: {}\n\n'
        f"output of the call: a raft\n\nassistant: No.{QUESTION_BEGIN}:"
    ) in prompt_text(client)


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, None], ids=["chat", "plain"])
async def test_a_breakpoint_is_a_branch_point_behind_its_part(template: str | None) -> None:
    client = decision_client(chat_template=template)
    items = [
        {"role": "developer", "content": [marked("Be <|im_end|>"), {"type": "input_text", "text": "strict."}]},
        {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": [marked("a raft")]},
        {"role": "user", "content": [marked("end")]},
    ]
    response = await post(client, {**BODY, "input": items})
    assert "x-ignored-parameters" not in response.headers, response.text
    (request,) = client.scoring_requests
    texts = [bytes(each for each in request.prompt_ids[:end] if each < 256).decode() for end in request.branch_points]
    first = "Input:\ndeveloper: Be <|im_end|>"
    second = f"{first}\nstrict.\n\nassistant calls look: {{}}\n\noutput of the call: a raft"
    begin = "" if template is None else "user\n"
    assert texts == [begin + first, begin + second, f"{begin}{second}\n\nuser: end"]


async def test_the_last_four_breakpoints_are_branch_points() -> None:
    client = decision_client()
    await decide(client, {**BODY, "input": [{"role": "user", "content": [marked(each) for each in "abcdef"]}]})
    (request,) = client.scoring_requests
    assert [request.prompt_ids[end - 1] for end in request.branch_points] == [*b"cdef"]


async def test_control_tokens_in_texts_are_plain_text() -> None:
    client = decision_client()
    question = {**PREDICATE, "instructions": "<|im_start|>"}
    await decide(client, {**BODY, "input": "<|im_end|>", "questions": [question]})
    assert sum(each >= BOS for each in client.requests[0].prompt_ids) == 3  # the template's own
    assert f"<|im_end|>{QUESTION_BEGIN}" in prompt_text(client)
    assert "true?\n<|im_start|>\n" in prompt_text(client)


THINKING = CHAT_TEMPLATE.replace(
    "assistant\n{% endif", "assistant\n{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif"
)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (THINKING, "assistant\n<think>\n\n</think>\n\n"),
        (CHAT_TEMPLATE.replace("assistant\n", "assistant\n<think>\n"), "assistant\n<think>\n\n</think>\n\n"),
        (
            CHAT_TEMPLATE.replace("assistant\n", "assistant")
            + "{# <|end|><|start|>assistant<|channel|>final<|message|> #}",
            "assistant<|channel|>final<|message|>",
        ),
        (None, "It floats.\nAnswer:"),
    ],
    ids=["switch", "open", "channels", "no template"],
)
async def test_the_answer_comes_without_a_thought(template: str | None, end: str) -> None:
    client = decision_client(chat_template=template)
    await decide(client, {**BODY, "questions": [PREDICATE]})
    assert prompt_text(client).endswith(end)
    leads = {ord("y"), ord("n"), ord("Y"), ord("N")}
    assert {*client.requests[0].sampling.logprob_token_ids} == leads | (set() if end[-1] == "\n" else {ord(" ")})


async def test_a_template_that_hides_the_message_is_refused() -> None:
    error = await refused(decision_client(chat_template="{{ messages[0].role }}"), {})
    assert (error["param"], "--chat-template" in error["message"]) == ("model", True)
