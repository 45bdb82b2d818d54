#!/bin/sh
# Decisions in both shapes: OpenAI's /v1/decisions and TypeSafe's /v1/systemone, of the first model of the server.
set -eu
server="${OPENAI_BASE_URL:-http://127.0.0.1:8000/v1}"

ask() { # path, body
  curl --silent --show-error --fail-with-body "$server/$1" -H 'content-type: application/json' \
    -H "authorization: Bearer ${OPENAI_API_KEY:-none}" -d "$2"
  echo
}

ask decisions '{
  "input": "My order 1138 was charged twice. Please refund one of the two today!",
  "questions": [
    {"type": "predicate", "name": "complaint", "instructions": "The writer complains."},
    {"type": "choice", "name": "team", "instructions": "Which team should read it?",
     "choices": [{"value": "billing", "description": "charges and refunds"}, {"value": "delivery"}]},
    {"type": "score", "name": "urgency", "instructions": "How urgent is it?",
     "levels": [{"label": "can wait"}, {"label": "this week"}, {"label": "today"}]}
  ]}'

ask systemone '{
  "state": {"order": 1138, "message": "I was charged twice. Please refund one of the two today!"},
  "questions": {
    "complaint": {"type": "noul", "instructions": "Does the writer complain?"},
    "team": {"type": "choice", "criteria": {"billing": "charges and refunds", "delivery": null}},
    "urgency": {"type": "score", "instructions": "How urgent is it?", "criteria": ["can wait", "this week", "today"]}
  }}'
