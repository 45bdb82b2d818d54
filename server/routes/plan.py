"""GET /v1/plan: how many users a loaded model takes within limits of time, for operators."""

import asyncio
import math
import sys
from dataclasses import replace

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from engine.child_processes.environment import compute_environment
from engine.child_processes.lifetime import describe_exit
from engine.command_io.lengths import parse_lengths
from engine.config import EngineConfig
from engine.errors import InvalidRequest, OptionError, RequestFailed
from engine.protocol import EngineInfo
from engine.simulation.hardware import SimulatedModel
from engine.simulation.planning.config import MOST_RATE, PlanConfig
from engine.simulation.planning.job import ServedPlanJob
from engine.simulation.planning.plan import Plan
from engine.simulation.planning.search import LoadKind, Requests
from engine.simulation.planning.slo import parse_slo
from server.http.body import Context, json_response
from server.http.disconnect import until_disconnect
from server.http.operators import OPERATORS_ONLY
from server.http.query import ignored_query, query_bool, query_int
from server.schemas.base import quote
from server.served.model import ServedModel

router = APIRouter(tags=["Operations"], dependencies=[OPERATORS_ONLY])

_COMMAND = (sys.executable, "-P", "-m", "engine.simulation.planning")
_HONORED = ("model", "input", "output", "rate", "concurrency", "slo", "changes")
_MOST_USERS = 1024
_NUM_REQUESTS = 100


@router.get("/v1/plan")
async def plan(request: Request, context: Context) -> Response:
    """Plan a loaded model: the times of a load, and the largest load that keeps the limits, by simulations."""
    model = context.models.find(request.query_params.get("model"))
    job = _job(request, model)
    answer = await until_disconnect(_planned(job), request.receive)
    return json_response(answer, ignored_query(request, *_HONORED))


def _job(request: Request, model: ServedModel) -> ServedPlanJob:
    """Return the job that the query describes. Raises InvalidRequest."""
    given = request.query_params
    info = model.client.info  # raises EngineUnavailable before the model is loaded
    if not info.simulated:
        raise InvalidRequest(
            f"{model.name} cannot be planned: its steps are not simulated; choose another", param="model"
        )
    defaults = PlanConfig()
    requests = Requests(
        _lengths(given.get("input", defaults.input), "input"),
        _lengths(given.get("output", defaults.output), "output"),
        _NUM_REQUESTS,
        defaults.seed,
    )
    kind, amount = _load(request)
    try:
        slo = parse_slo(given.get("slo", defaults.slo), "slo")
    except OptionError as error:
        raise InvalidRequest(str(error), param="slo") from error
    simulated = replace(msgspec.json.decode(info.simulated, type=SimulatedModel), model=model.name)  # not its path
    return ServedPlanJob(
        simulated, _engine_options(info), requests, kind, amount, slo, query_bool(request, "changes") is True
    )


def _lengths(text: str, name: str) -> str:
    try:
        parse_lengths(text, name)
    except OptionError as error:
        raise InvalidRequest(str(error), param=name) from error
    return text


def _load(request: Request) -> tuple[LoadKind, float]:
    """Return the load of the query; without one, a single user."""
    users = query_int(request, "concurrency", least=1, most=_MOST_USERS)
    rate = request.query_params.get("rate")
    if rate is None:
        return LoadKind.CONCURRENCY, users or 1
    if users is not None:
        raise InvalidRequest(
            "give either rate, requests a second, or concurrency, users at the same time", param="rate"
        )
    try:
        amount = float(rate)
    except ValueError:
        amount = math.nan
    if not 0 < amount <= MOST_RATE:
        raise InvalidRequest(
            f"rate is {quote(rate)}; it must be a number of requests a second above 0, at most {MOST_RATE:,.0f}",
            param="rate",
        )
    return LoadKind.RATE, amount


def _engine_options(info: EngineInfo) -> EngineConfig:
    return EngineConfig(
        max_num_seqs=info.max_num_seqs,
        max_num_batched_tokens=None if info.are_steps_timed else info.max_num_batched_tokens,
    )


async def _planned(job: ServedPlanJob) -> Plan:
    """Make the plan in a process of its own. Raises InvalidRequest if the model refuses such requests."""
    process = await asyncio.create_subprocess_exec(
        *_COMMAND,
        msgspec.json.encode(job).decode(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C in the terminal is the server's to handle
        env=compute_environment(),
    )
    try:
        answer, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 2:
        raise InvalidRequest(answer.decode(), param="input")
    if process.returncode != 0:
        raise RequestFailed(f"the process that plans ended with {describe_exit(process.returncode or 0)}")
    return msgspec.json.decode(answer, type=Plan)
