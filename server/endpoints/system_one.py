"""POST /v1/systemone, in the format of TypeSafe's System One."""

from server.decisions.system_one_form import system_one_answer, system_one_decision
from server.endpoints.binding.decisions import DecisionProtocol, decision_endpoint
from server.openapi.operation import JSON
from server.protocols.system_one_errors import REQUEST_ID_HEADER
from server.schemas.system_one import SystemOneRequest
from server.schemas.system_one_answers import SystemOneAnswer

SYSTEM_ONE = decision_endpoint(
    DecisionProtocol(system_one_decision, system_one_answer, REQUEST_ID_HEADER),
    path="/v1/systemone",
    name="system_one",
    summary="Answer named questions about a state with probabilities, in the shape of TypeSafe's System One.",
    bodies=(SystemOneRequest,),
    answers={JSON: SystemOneAnswer},
    example={
        "state": {"subject": "Order 1138", "message": "I was charged twice. Please help today."},
        "questions": {
            "billing": {"type": "noul", "instructions": "Is this message about billing?"},
            "tone": {
                "type": "choice",
                "instructions": "What is its tone?",
                "criteria": {"calm": None, "angry": "an upset or hostile message"},
            },
            "urgency": {
                "type": "score",
                "instructions": "How urgent is it?",
                "criteria": ["can wait", "this week", "today"],
            },
        },
    },
)
ENDPOINTS = (SYSTEM_ONE,)
