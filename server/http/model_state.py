"""model_state: what is told of a model's being loaded, the same in its card and on /health."""

from typing import Any

from engine.client.interface import EngineState
from server.served.loadable_model import ModelState
from server.served.model import ServedModel


def model_state(model: ServedModel) -> dict[str, Any]:
    """`state`, and while it is not loaded why, and how far loading has come."""
    state, status = model.state, model.client.status()
    told: dict[str, Any] = {"state": state.value}
    if state is ModelState.LOADED and status.state is not EngineState.READY:
        state = ModelState.LOADING  # its engine is started again
        told["state"] = state.value
    if state is ModelState.FAILED:
        told["reason"] = "it could not be loaded, or has failed; the server's log has the reason"
    if state is ModelState.LOADING:
        told |= {"reason": status.reason, "stage": status.stage, "progress": status.progress}
    if model.loadable is not None and (waiting := len(model.loadable.waiters)):
        told["waiting"] = waiting
    return told
