"""What each service class means to the engine: one table."""

from dataclasses import dataclass

from engine.protocol import ServiceClass


@dataclass(frozen=True, slots=True)
class ServiceRules:
    """How sequences of one class are served."""

    rank: int  # all of a lower rank are served before them, and preempted after them
    yields: bool  # a running one gives up its place and its blocks as soon as one of a lower rank waits
    is_counted: bool  # in metrics of requests, steps and preemptions, and in prefix statistics
    is_drafted: bool  # the speculator may set drafts
    stays_cached: bool  # its blocks remain in the prefix cache when it ends


SERVICE_RULES: dict[ServiceClass, ServiceRules] = {
    ServiceClass.INTERACTIVE: ServiceRules(
        rank=0,
        yields=False,
        is_counted=True,
        is_drafted=True,
        stays_cached=True,
    ),
    # Computed again to compare it, beside the traffic that is measured; no request will continue it.
    ServiceClass.AUDIT: ServiceRules(
        rank=1,
        yields=True,
        is_counted=False,
        is_drafted=False,
        stays_cached=False,
    ),
}
