"""POST /v1/decisions, in OpenAI's format."""

from server.decisions.openai_form import answer_of, decision_of
from server.endpoints.binding.decisions import DecisionProtocol, decision_endpoint
from server.openapi.operation import JSON
from server.schemas.decisions import DecisionRequest
from server.schemas.decisions_answers import DecisionAnswer

DECISIONS = decision_endpoint(
    DecisionProtocol(decision_of, answer_of),
    path="/v1/decisions",
    name="create_decision",
    summary="Answer questions about an input with probabilities: of a statement, of options, of levels.",
    bodies=(DecisionRequest,),
    answers={JSON: DecisionAnswer},
    example={
        "input": "The parcel came two weeks late, and nobody answers the phone.",
        "questions": [
            {"type": "predicate", "name": "complaint", "instructions": "The writer complains."},
            {
                "type": "choice",
                "name": "team",
                "instructions": "Which team should read it?",
                "choices": [{"value": "delivery", "description": "parcels on their way"}, {"value": "billing"}],
            },
            {
                "type": "score",
                "name": "anger",
                "instructions": "How angry is the writer?",
                "levels": [{"label": "calm"}, {"label": "annoyed"}, {"label": "furious"}],
            },
        ],
    },
)
ENDPOINTS = (DECISIONS,)
