"""Rules of quality: which lines each removes, and which alike lines it keeps."""

import json
from collections import Counter
from typing import Any

import pytest

from engine.errors import InvalidRequest
from server.data.lines import parse_line
from server.data.rules.quality import RULES, failed_rule, select_rules
from tests.helpers.data_lines import chat

pytestmark = pytest.mark.fast

_SENTENCES = "The river is wide and the boats of the town are old. We have a map with all of the islands in it. "
_PROSE = "\n".join(f"{_SENTENCES}They sold {name} to us." for name in ("bread", "salt", "wool", "tin", "oil"))


def _failed(value: Any, *rules: str) -> str | None:
    line, _ = parse_line(json.dumps(value).encode(), 1)
    failed = failed_rule(select_rules(rules, "quality"), line, Counter())
    return None if failed is None else failed[0].name


_LOOP = "and then we go on to the next of the steps " * 12
_WITH_TOOLS = [{"type": "function", "function": {"name": "look"}}]


def _call(arguments: object, name: str = "look") -> dict[str, Any]:
    call = {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {
        "messages": [{"role": "user", "content": "Look"}, {"role": "assistant", "tool_calls": [call]}],
        "tools": _WITH_TOOLS,
    }


def _with_result(call_id: object) -> dict[str, Any]:
    given = _call("{}")
    result = {"role": "tool", "tool_call_id": call_id, "content": "a"}
    return {**given, "messages": [*given["messages"], result, {"role": "assistant", "content": "Done."}]}


def _roles(*roles: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": f"text {place}"} for place, role in enumerate(roles)]}


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        ("chat_empty", chat("Hi", "  "), chat("Hi", "Yes")),
        ("chat_empty", chat("", "Yes"), _call("{}")),
        ("chat_empty", {"prompt": "a", "completion": " "}, {"prompt": "a", "completion": "b"}),
        ("chat_roles", _roles("user", "user", "assistant"), _roles("system", "user", "assistant")),
        ("chat_roles", _roles("assistant", "user", "assistant"), _roles("user", "assistant", "user", "assistant")),
        ("chat_roles", _roles("user", "system", "assistant"), _roles("developer", "user")),
        ("chat_tool_calls", _call("{"), _call("{}")),
        ("chat_tool_calls", _call("{}", "other"), _call('{"a": 1}')),
        ("chat_tool_calls", _call("[" * 100_000), {**_call("{}"), "functions": [{"name": ["no"]}]}),
        ("chat_tool_calls", _with_result({}), _with_result("1")),
        ("chat_tool_calls", _call({"a": 1}), chat("Hi", "Yes")),
        ("chat_refusal", chat("Hi", "I'm sorry, but I can't help with that."), chat("Hi", "I’m sorry, we close at 5.")),
        ("chat_refusal", chat("Hi", "As an AI language model, I have no taste."), chat("Hi", "An AI is a program.")),
        ("chat_refusal", chat("Hi", "Es tut mir leid, dabei kann ich nicht helfen."), chat("Hi", "Das tut mir leid.")),
        ("chat_refusal", chat("Hi", "申し訳ありませんが、お答えできません。"), chat("Hi", "申し訳ない気持ちになる。")),
        ("chat_refusal", chat("Hi", "Sorry, unable to help."), chat("Hi", "Call us if you are unable to complete it.")),
        ("chat_refusal", chat("Hi", "As an AI model, I do not."), chat("Hi", "GPT-2 began as a language model.")),
        ("chat_refusal", chat("Hi", "It is against my policy."), chat("Hi", "They marched against the police.")),
        ("chat_cut_off", chat("Hi", "The river is wide and " * 9 + "the"), chat("Hi", "แม่น้ำกว้างและเรือเก่า " * 9)),
        ("chat_cut_off", chat("Hi", "The river is wide and " * 9 + "the"), chat("Hi", "The river is wide. " * 9)),
        ("chat_cut_off", chat("Hi", "```python\nprint(1)"), chat("Hi", "```python\nprint(1)\n```")),
        (
            "chat_cut_off",
            chat("Hi", "川は広くて船は古い、" * 9 + "そして島の地図をたくさん持って"),
            chat("Hi", "川は広い。" * 20),
        ),
        (
            "chat_cut_off",
            chat("Hi", "The river is wide " * 9),
            chat("Hi", "The river is wide. " * 9 + "\n\nYours, Ann"),
        ),
        (
            "chat_repetition",
            chat("Hi", "The shop is open on Sunday, the shop is open on Sunday, the shop is open"),
            chat("Hi", "The red car is fast. The blue car is slow. The red car is new. The blue car is old."),
        ),
        ("chat_repetition", chat("Hi", "is for fun, for fun, " * 3), chat("Hi", "0 1 " * 9)),
        ("chat_repetition", chat("Hi", _LOOP), chat("Hi", _PROSE.partition("\n")[0])),
        ("chat_echo", chat("What is it?", "  What  is it"), chat("What is it?", "It is a map.")),
        ("chat_echo", chat("それは何", "それは何？"), chat("what is it", "What is it?")),
        ("chat_echo", chat("Help!", "Help..."), chat("eat, uncle tom", "eat uncle tom.")),
        ("chat_mojibake", chat("Hi", "SchÃ¶n"), chat("Hi", "Schön, são, Ärger, 日本語, naïve, “so”")),
        ("chat_mojibake", chat("Hi", "Ã©tÃ©"), chat("Hi", "“J'ai oublié…” dit-elle, puis “café”— et ‘thé’”")),
        ("chat_mojibake", chat("Hi", "a \ufffd"), chat("Hi", "a")),
        ("chat_mojibake", chat("Hi", "日本語".encode().decode("cp1252", "replace")), chat("Hi", "être à Ångström")),
        ("gopher_words", {"text": "Too short."}, {"text": _PROSE}),
        ("gopher_word_length", {"text": "a b c d e f"}, {"text": _PROSE}),
        ("gopher_symbols", {"text": "# a # b # c"}, {"text": _PROSE}),
        ("gopher_bullets", {"text": "- a\n- b"}, {"text": _PROSE}),
        ("gopher_ellipses", {"text": "so ...\nno ...\nyes."}, {"text": _PROSE}),
        ("gopher_letters", {"text": "1 2 3 4 five"}, {"text": _PROSE}),
        ("gopher_stop_words", {"text": "cheap shoes online shop"}, {"text": "Das ist der Fluss und die Stadt."}),
        ("gopher_stop_words", {"text": "buy now"}, {"text": "川は広い。"}),
        ("gopher_lines", {"text": "a\na\na\nb"}, {"text": "a\nb\nc"}),
        ("gopher_line_characters", {"text": "a long line\na long line\nb\nc\nd"}, {"text": _PROSE}),
        ("gopher_top_2gram", {"text": "buy now " * 9}, {"text": _PROSE}),
        ("gopher_10grams", {"text": _LOOP}, {"text": _SENTENCES}),
        ("c4_sentences", {"text": "No end"}, {"text": "川は広い。船は古い。島がある。"}),
        (
            "c4_sentences",
            {"text": "แม่ is a word of the Thai language"},
            {"text": "แม่น้ำกว้าง\nเรือเก่า (ค.ศ. 1900)"},
        ),
        ("c4_sentences", {"text": "یہ"}, {"text": "دریا چوڑا ہے۔ کشتی پرانی ہے۔ کیا آپ جائیں گے؟"}),
        ("c4_sentences", {"text": "ទន្លេ"}, {"text": "ទន្លេធំ។ ទូកចាស់។ កោះតូច។"}),
        ("c4_braces", {"text": "var x = {}"}, {"text": _PROSE}),
        ("c4_lorem", {"text": "Lorem ipsum dolor"}, {"text": _PROSE}),
        ("c4_boilerplate", {"text": "Please enable JavaScript\nThis site uses cookies"}, {"text": _PROSE}),
        ("fineweb_ends", {"text": "Home\nContact\nShop"}, {"text": _PROSE}),
        ("fineweb_ends", {"text": "Home\nContact"}, {"text": "ແມ່ນ້ຳກວ້າງ\nເຮືອເກົ່າ"}),
        ("fineweb_ends", {"text": "Home\nContact"}, {"text": "دریا چوڑا ہے۔\nکشتی پرانی ہے۔"}),
        ("fineweb_short_lines", {"text": "Home\nContact\nShop"}, {"text": _PROSE}),
        ("fineweb_repeated", {"text": "read more about it\n" * 2 + _SENTENCES}, {"text": _PROSE}),
    ],
)
def test_a_rule_removes_the_bad_line_alone(rule: str, bad: Any, good: Any) -> None:
    assert _failed(bad, rule) == rule
    assert _failed(good, rule) is None


def test_prose_passes_all_rules_and_rules_of_prose_do_not_judge_code() -> None:
    code = "\n".join(f"def f{n}(x):\n    return x[{n}] + {n}\n" for n in range(20))
    assert _failed({"text": code}, *(rule.name for rule in RULES if rule.name != "c4_braces")) is None
    assert _failed({"text": _PROSE}, "c4", "fineweb", "chat") is None


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        ("I can't help with that.", "chat_refusal"),
        ("And so I say to you again that we will see it. " * 12, "chat_repetition"),
        ("How do I mend a flat tire on a bicycle?", "chat_echo"),
    ],
)
def test_a_preference_may_reject_what_no_answer_may_be(bad: str, rule: str) -> None:
    def pair(preferred: str, other: str) -> dict[str, Any]:
        outputs = [[{"role": "assistant", "content": text}] for text in (preferred, other)]
        messages = {"messages": [{"role": "user", "content": "How do I mend a flat tire on a bicycle?"}]}
        return {"input": messages, "preferred_output": outputs[0], "non_preferred_output": outputs[1]}

    assert _failed(pair("Take the tube out.", bad), "chat") is None
    assert _failed(pair(bad, "Take the tube out."), "chat") == rule


def test_groups_and_names_select_rules_and_others_are_refused() -> None:
    assert [rule.name for rule in select_rules(["c4_lorem", "gopher_words"], "x")] == ["gopher_words", "c4_lorem"]
    assert {rule.group for rule in select_rules(["gopher"], "x")} == {"gopher"}
    with pytest.raises(InvalidRequest, match="x has 'gophers', which is not a rule; there are the groups gopher, c4"):
        select_rules(["gophers"], "x")
