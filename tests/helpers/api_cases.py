"""Requests drawn by schemathesis from the API's description, and what is wrong with their answers.

`python -m tests.helpers.api_cases 10000` draws so many for an application with a fake engine, and
`python -m tests.helpers.api_cases 500 --url http://127.0.0.1:8000` for a server that runs; both print what they find
and end with 1 if that is anything.
"""

import argparse
import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from tempfile import mkdtemp
from typing import Any
from weakref import finalize

import httpx
import jsonschema_rs
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from engine.protocol import PoolingTask
from tests.helpers.fake_client import FakeClient, make_app, pooling_client, says_or_scores
from tests.helpers.openapi import POOLING, fim_info

CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance, content_type_conformance]
_MAX_TOKENS = 8  # of each answer, so that a real model comes to an end
_LIMITS = {
    "/v1/chat/completions": "max_completion_tokens",
    "/v1/completions": "max_tokens",
    "/v1/messages": "max_tokens",
    "/v1/responses": "max_output_tokens",
    "/infill": "n_predict",
}
_BATCH = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
_UPLOAD = {"bytes": 2, "filename": "lines.jsonl", "mime_type": "text/jsonl", "purpose": "batch"}
_OBJECTS = {"conversation_id": "/v1/conversations", "response_id": "/v1/responses"}


def _timed_out(case: Any, response: Any) -> bool:
    """Whether the answer is the 504 that a request with a time limit of its own asks for."""
    return response.status_code == 504 and isinstance(case.body, dict) and "timeout" in case.body


def fake_app() -> FastAPI:
    client = FakeClient(says_or_scores("Because. 🙂"), fim_info(max_model_len=4000))
    app = make_app(client, enable_lora=True, data_dir=mkdtemp(prefix="headrace-cases-"))
    finalize(app, shutil.rmtree, app.state.context.config.data_dir)
    return app


def pooling_app() -> FastAPI:
    """Of a model that does all that pooling models do."""
    return make_app(pooling_client(tasks=[*PoolingTask], matryoshka=[], labels=["bad"], prompts={"query": "Find: "}))


class ApiCases:
    """The operations of one server.

    What is drawn blindly hardly ever comes past the first check. So ids and names of models are mostly replaced by ones
    that exist, and most bodies are the documented example with a few of the drawn fields, as a stream or a whole.
    """

    def __init__(
        self,
        app: FastAPI | None = None,
        url: str | None = None,
        *,
        change: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        """app or url. change: of the description, to see that what differs from it is found."""
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.num_streams: Counter[str] = Counter()
        self._app = app
        if app is not None:
            self._schema = schemathesis.openapi.from_asgi("/openapi.json", app)
        else:
            self._schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
            self._http = httpx.Client(base_url=url or "", timeout=60)
        change(self._schema.raw_schema)
        self._call = self._in_process if app is not None else self._over_http
        self._model = json.loads(self._request("GET", "/v1/models"))["data"][0]["id"]
        self._random = random.Random(0)

    def _request(self, method: str, path: str, body: Any = None, **form: Any) -> bytes:
        if self._app is None:
            return self._http.request(method, path, json=body, **form).content
        from starlette.testclient import TestClient

        return TestClient(self._app).request(method, path, json=body, **form).content

    def _upload(self, purpose: str = "batch") -> str:
        """The id of a file."""
        files = {"file": ("lines.jsonl", b"{}")}
        answer = self._request("POST", "/v1/files", data={"purpose": purpose}, files=files)
        file_id: str = json.loads(answer)["id"]
        return file_id

    def _upload_in_parts(self) -> tuple[str, str]:
        """The ids of an upload that is pending, and of its only part."""
        upload_id = json.loads(self._request("POST", "/v1/uploads", _UPLOAD)).get("id", "")  # "": too many are pending
        files = {"data": ("part", b"{}")}
        part_id = json.loads(self._request("POST", f"/v1/uploads/{upload_id}/parts", files=files)).get("id", "")
        return upload_id, part_id

    def operations(self) -> dict[str, Any]:
        found = (result.ok() for result in self._schema.get_all_operations())
        return {operation.label: operation for operation in found}

    def run(self, operation: Any, num_cases: int, number: int = 0) -> list[str]:
        """What is wrong with the answers to so many requests, each fault with its request. number: of the draw."""
        faults: dict[str, str] = {}
        num_drawn = 0

        def check(case: Any) -> None:
            nonlocal num_drawn
            self._make_real(case, is_sparse=self._random.random() < 0.7, is_bare=num_drawn % 6 == 0)
            num_drawn += 1
            response = self._call(case)
            self.statuses[operation.label, response.status_code] += 1
            for fault in self._faults(case, response):
                faults.setdefault(
                    fault[:200], f"{operation.label} {response.status_code}: {fault}\n{case.as_curl_command()}"
                )

        for mode, share in ((GenerationMode.POSITIVE, 2), (GenerationMode.NEGATIVE, 1)):
            if mode is GenerationMode.NEGATIVE and _takes_only_names(operation):
                continue  # there is nothing to make wrong, which schemathesis finds out by hundreds of draws
            strategy = operation.as_strategy(generation_mode=mode)
            bounded = settings(
                max_examples=max(1, num_cases * share // 3),
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            try:
                seed(number)(bounded(given(case=strategy)(check)))()
            except Exception as error:
                if "Unsatisfiable" not in repr(type(error)):
                    raise
        return list(faults.values())

    def _in_process(self, case: Any) -> Any:
        return case.call(app=self._app)

    def _over_http(self, case: Any) -> Any:
        return case.call(timeout=60)

    def _make_real(self, case: Any, *, is_sparse: bool, is_bare: bool) -> None:
        path = case.operation.path
        if isinstance(case.body, dict) and case.media_type == "application/json":
            if is_bare:  # so that each operation surely has one that is answered, if it can be in a stream
                case.body = self._example(case) | ({} if case.operation.label in POOLING else {"stream": True})
            elif is_sparse:
                kept = {name: value for name, value in case.body.items() if self._random.random() < 0.1}
                case.body = {**kept, **self._example(case)}
                if self._random.random() < 0.6:
                    case.body["stream"] = True
            elif "model" in case.body:
                case.body["model"] = self._model
            if self._app is None and path in _LIMITS:
                case.body[_LIMITS[path]] = _MAX_TOKENS
            if self._app is None and path.startswith("/api/"):
                case.body["options"] = {"num_predict": _MAX_TOKENS}
        parameters = case.path_parameters
        for name, maker in _OBJECTS.items():
            if isinstance(parameters, dict) and name in parameters and self._random.random() < 0.6:
                body = {} if name == "conversation_id" else {"input": "hi", "max_output_tokens": _MAX_TOKENS}
                parameters[name] = json.loads(self._request("POST", maker, body))["id"]
        if isinstance(parameters, dict) and "file_id" in parameters and self._random.random() < 0.6:
            parameters["file_id"] = self._upload()
        if isinstance(parameters, dict) and "upload_id" in parameters and self._random.random() < 0.6:
            parameters["upload_id"], part_id = self._upload_in_parts()
            if isinstance(case.body, dict) and self._random.random() < 0.6:
                case.body["part_ids"] = [part_id]
        if isinstance(parameters, dict) and "batch_id" in parameters and self._random.random() < 0.6:
            made = self._request("POST", "/v1/batches", {**_BATCH, "input_file_id": self._upload()})
            parameters["batch_id"] = json.loads(made)["id"]
        if isinstance(parameters, dict) and "job_id" in parameters and self._random.random() < 0.6:
            body = {"model": self._model, "training_file": self._upload("fine-tune")}
            made = json.loads(self._request("POST", "/v1/fine_tuning/jobs", body))
            parameters["job_id"] = made.get("id", parameters["job_id"])  # a key has a hundred jobs at most
        if isinstance(parameters, dict) and "name" in parameters and self._random.random() < 0.6:
            parameters["name"] = self._model

    def _example(self, case: Any) -> dict[str, Any]:
        body = self._schema.raw_schema["paths"][case.operation.path][case.operation.method]["requestBody"]
        example: dict[str, Any] = json.loads(json.dumps(body["content"]["application/json"]["example"]))
        if "input_file_id" in example:
            example["input_file_id"] = self._upload()
        if "training_file" in example:
            example["training_file"] = self._upload("fine-tune")
        return {**example, "model": self._model} if "model" in example else example

    def _faults(self, case: Any, response: Any) -> Iterator[str]:
        try:
            checks = CHECKS[1:] if _timed_out(case, response) else CHECKS
            case.validate_response(response, checks=checks)
        except FailureGroup as found:  # which is no Exception
            yield " ".join(str(failure) for failure in found.exceptions)
        media = response.headers.get("content-type", [""])[0].partition(";")[0]
        events = _EVENTS.get(media)
        if response.status_code == 200 and events is not None:
            self.num_streams[case.operation.label] += 1
            yield from self._event_faults(case, media, events(response.content.decode()))

    def _event_faults(self, case: Any, media: str, events: list[Any]) -> Iterator[str]:
        """Each event against the schema of the events, an error's beside it."""
        raw = self._schema.raw_schema
        answers = raw["paths"][case.operation.path][case.operation.method]["responses"]
        choices = [answers[status]["content"] for status in ("200", "500")]
        documented = choices[0][media]["schema"]
        if media == "text/event-stream":
            data = documented["properties"]["data"]
            documented = data.get("anyOf", [data])[0].get("contentSchema", {})
        schema = {
            "anyOf": [documented, choices[1]["application/json"]["schema"]],
            "components": raw["components"],
        }
        validator = jsonschema_rs.validator_for(schema)
        for event in events:
            for error in validator.iter_errors(event):
                yield f"an event is not as described: {error.message[:300]} in {json.dumps(event)[:300]}"
                return


def _takes_only_names(operation: Any) -> bool:
    """Whether all that the operation takes is strings in its path."""
    parameters = [*operation.iter_parameters()]
    schemas = [each.definition.get("schema", {}) for each in parameters]
    in_path = all(each.definition["in"] == "path" for each in parameters)
    return bool(parameters) and not operation.body and in_path and all(set(s) <= {"type", "title"} for s in schemas)


def _sse(text: str) -> list[Any]:
    data = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [json.loads(each) for each in data if each != "[DONE]"]


def _lines(text: str) -> list[Any]:
    return [json.loads(each) for each in text.split("\n") if each]


_EVENTS: dict[str, Callable[[str], list[Any]]] = {"text/event-stream": _sse, "application/x-ndjson": _lines}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("num_cases", type=int)
    parser.add_argument("--url", help="a running server's address (default: an application with a fake engine)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    cases = ApiCases(url=arguments.url) if arguments.url else ApiCases(fake_app())
    operations = cases.operations()
    poolers = cases if arguments.url else ApiCases(pooling_app())
    # Most of the requests for the routes that read a body: there is little to draw for the others.
    weights = {label: 6 if operation.body else 1 for label, operation in operations.items()}
    unit = arguments.num_cases / sum(weights.values())
    num_faults = 0
    for label, operation in operations.items():
        asked = poolers if label in POOLING else cases
        faults = asked.run(operation, max(3, round(unit * weights[label])), arguments.seed)
        num_faults += len(faults)
        counts = {status: count for (each, status), count in sorted(asked.statuses.items()) if each == label}
        print(f"{label}: {counts}, {cases.num_streams[label]} streams", *faults, sep="\n  ", flush=True)  # noqa: T201
    num_requests = sum(each.statuses.total() for each in {id(each): each for each in (cases, poolers)}.values())
    print(f"{num_requests} requests, {num_faults} kinds of faults")  # noqa: T201
    return 1 if num_faults else 0


if __name__ == "__main__":
    sys.exit(main())
