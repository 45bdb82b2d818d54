"""model_state: the loading state of a model, as shown in its model card and on /health."""

from typing import Any

from engine.client.interface import EngineState
from server.served.loadable_model import ModelState
from server.served.model import ServedModel


def model_state(model: ServedModel) -> dict[str, Any]:
    """Return the field `state` and, for a model that is not loaded, its reason and progress."""
    state, status = model.state, model.client.status()
    shown: dict[str, Any] = {"state": state.value}
    if state is ModelState.LOADED and status.state is not EngineState.READY:
        state = ModelState.LOADING  # its engine is being restarted
        shown["state"] = state.value
    if state is ModelState.FAILED:
        shown["reason"] = "it could not be loaded, or has failed; the server's log has the reason"
    if state is ModelState.LOADING:
        shown |= {"reason": status.reason, "stage": status.stage, "progress": status.progress}
    if model.loadable is not None and (waiting := len(model.loadable.waiters)):
        shown["waiting"] = waiting
    return shown
