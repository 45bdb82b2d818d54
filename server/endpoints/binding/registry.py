"""The registry of endpoints, collected from the tuple ENDPOINTS of every module in server/endpoints."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any

import server.endpoints
from server.endpoints.binding.endpoint import Endpoint
from server.endpoints.binding.suitability import SuitablePaths
from server.openapi.operation import Operation


def _found() -> Iterator[Endpoint[Any]]:
    for module in sorted(pkgutil.iter_modules(server.endpoints.__path__), key=lambda each: each.name):
        if not module.ispkg:
            yield from importlib.import_module(f"{server.endpoints.__name__}.{module.name}").ENDPOINTS


ENDPOINTS: tuple[Endpoint[Any], ...] = tuple(_found())  # by the names of their files

BATCH_ENDPOINTS: Mapping[str, Endpoint[Any]] = {each.path: each for each in ENDPOINTS if each.is_batchable}

# Paths whose every request waits for the engine, so that a full queue refuses it before its body is read.
WAITING_PATHS = frozenset(each.path for each in ENDPOINTS if each.waits_for_engine)

SUITABLE_PATHS = SuitablePaths([(each.path, each.tasks) for each in ENDPOINTS if each.tasks])

ENDPOINT_OPERATIONS: Mapping[str, Operation] = {f"POST {each.path}": each.operation for each in ENDPOINTS}
