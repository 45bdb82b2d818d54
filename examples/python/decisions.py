"""Decisions: mails routed by probabilities, which are compared with thresholds instead of reading prose.

Needs openai 3.57 or later. The thresholds are guesses; choose yours on mails whose answers you know.
"""

import os

from openai import OpenAI

MAILS = [
    "My order 1138 was charged twice. Please refund one of the two today!",
    "The parcel should have been here two weeks ago, and the tracking page shows nothing.",
    "You have won a free cruise! Click here to claim your prize.",
]
QUESTIONS = [
    {"type": "predicate", "name": "spam", "instructions": "The mail is unsolicited advertising or a scam."},
    {
        "type": "choice",
        "name": "team",
        "instructions": "Which team should read the mail?",
        "choices": [
            {"value": "billing", "description": "charges, invoices and refunds"},
            {"value": "delivery", "description": "parcels on their way"},
            {"value": "anyone", "description": "everything else"},
        ],
    },
    {
        "type": "score",
        "name": "urgency",
        "instructions": "How urgent is the mail?",
        "levels": [{"label": "can wait"}, {"label": "this week"}, {"label": "today"}],
    },
]
MOSTLY_SPAM, CLEAR_TEAM = 0.8, 0.5


def main() -> None:
    client = OpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
    )
    model = client.models.list().data[0].id
    for mail in MAILS:
        # Each choice is asked in two orders of its options, and averaged: models prefer some places in a list.
        extra = {"permutations": 2}
        decision = client.decisions.create(model=model, input=mail, questions=QUESTIONS, extra_body=extra)
        answers = {answer.name: answer for answer in decision.answers}
        assert list(answers) == ["spam", "team", "urgency"]
        print(f"{mail}\n  {route(answers)} ({decision.usage.input_tokens} tokens)")


def route(answers: dict) -> str:
    """Return what is done with a mail. A refusal means that the model would answer something else."""
    if any(answer.type == "refusal" for answer in answers.values()):
        return "a person reads it: the model does not answer"
    spam, team, urgency = answers["spam"], answers["team"], answers["urgency"]
    shares = {each.value: each.probability for each in team.probabilities}
    assert abs(sum(shares.values()) - 1) < 1e-6
    assert 0 <= urgency.score <= 2
    if spam.probability > MOSTLY_SPAM:
        return f"thrown away: spam with a probability of {spam.probability:.2f}"
    if shares[team.choice] < CLEAR_TEAM:
        return f"a person reads it: {team.choice} has only {shares[team.choice]:.2f}"
    return f"to {team.choice} ({shares[team.choice]:.2f}), urgency {urgency.score:.1f} of 2"


if __name__ == "__main__":
    main()
