"""fault_plan: the faults that a start asks for, if its options allow any."""

import logging
from collections.abc import Mapping

from engine.child_processes.fault_plan import VARIABLE, FaultPlan
from engine.errors import OptionError
from server.config.server import ServerConfig

logger = logging.getLogger(__name__)


def fault_plan(config: ServerConfig, environ: Mapping[str, str]) -> FaultPlan | None:
    """The plan in HEADRACE_FAULTS. Raises OptionError for one that is wrong, or that was not meant for this server."""
    text = environ.get(VARIABLE)
    if not text:
        return None
    if not config.enable_fault_injection:
        raise OptionError(
            f"{VARIABLE} is set, which makes the server fail on purpose; unset it, or give --enable-fault-injection if "
            "this server is for tests"
        )
    plan = FaultPlan(text)
    logger.warning("this server fails on purpose (%s=%s): it is for tests", VARIABLE, text)
    return plan
