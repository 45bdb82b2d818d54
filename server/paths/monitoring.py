"""Paths that are asked for every few seconds, for ever; without parameters, so that path and route are the same."""

# Kubernetes and load balancers ask these, without a key. They tell the state of the server, and nothing of requests.
PROBES = frozenset({"/live", "/ready", "/health"})
# Not worth a line in a log, or a trace.
MONITORING = PROBES | {"/metrics"}
