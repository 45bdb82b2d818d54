"""The parsers of `headrace fleet`."""

import argparse

from server.commands.fleet.config import FleetConfig
from server.commands.options.arguments import Parser, action_examples, add_options
from server.commands.options.definitions import OPTIONS, options_of

STATUS, STOP, VARIABLES = "status", "stop", "variables"
ACTIONS = {
    STATUS: "Show the replicas of a running fleet, and the address of each.",
    STOP: "Stop a running fleet: requests end first, at most for its --shutdown-timeout.",
    VARIABLES: "Print the variables that every machine of a Ray cluster needs before `ray start`.",
}

_EPILOG = """\
Options of the servers are those of headrace serve, also as variables and in the file of --config. The command needs
Ray Serve: pip install 'headrace[ray]' (about 500 MB). Ctrl-C or SIGTERM ends the fleet as `headrace fleet stop` does.

examples:
  headrace fleet --replicas 2
  headrace fleet OWNER/REPO --min-replicas 1 --max-replicas 4 --threads 8
  headrace fleet OWNER/REPO --replicas 8 --gpus-per-replica 1 --threads 4 --address 10.0.0.5:6379
  headrace fleet status
  headrace fleet stop
  headrace fleet variables
"""


def fleet_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="headrace fleet",
        usage="headrace fleet [MODEL ...] [options]\n       headrace fleet status|stop|variables [--address HOST:PORT]",
        description="Serve MODEL, or several, by replicas behind one address, until interrupted.",
        epilog=_EPILOG,
    )
    parser.add_argument("positional_models", nargs="*", metavar="MODEL", help=OPTIONS["model"].help)
    parser.add_argument("--config", metavar="FILE", help="YAML file of options, as for headrace serve.")
    add_options(parser, options_of(FleetConfig), many="append")
    add_options(parser, OPTIONS.values(), many="append")
    return parser


def action_parser(action: str) -> argparse.ArgumentParser:
    """Return the parser of `headrace fleet status`, `stop` or `variables`."""
    parser = Parser(
        prog=f"headrace fleet {action}",
        description=ACTIONS[action],
        epilog=action_examples(_EPILOG, action),
    )
    names = {STATUS: ("address", "replica_port"), STOP: ("address",), VARIABLES: ("replica_port",)}[action]
    add_options(parser, [each for each in options_of(FleetConfig) if each.name in names], many="append")
    return parser
