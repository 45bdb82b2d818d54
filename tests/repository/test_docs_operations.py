"""docs/operations.md and docs/recipes.md name metrics, options and paths that there are."""

import re

import pytest

from engine.command_io.bench_config import LatencyConfig
from engine.command_io.finetuning.config import TrainingConfig
from engine.command_io.quantize_config import QuantizeConfig
from server.app import ROUTERS
from server.commands.options.definitions import OPTIONS, OTHER_VARIABLES, options_of
from server.loadtest.config import LoadConfig
from server.metrics.table import METRICS
from tests.helpers.deploy_files import DEPLOY
from tests.helpers.repository import ROOT

pytestmark = pytest.mark.fast

TEXT = "\n".join((ROOT / "docs" / name).read_text() for name in ("operations.md", "recipes.md"))
INLINE = re.findall(r"`([^`\n]+)`", TEXT)
ENGINE_PROCESS = {"headrace_engine_process_cpu_seconds_total"}  # the collector of the engine process has it
FOREIGN_FLAGS = {"--enable-feature", "--unit", "--config", "--help"}
KEYS_FLAGS = {"--file", "--admin", "--metrics", "--no-models"}  # of `headrace keys new`
CONFIGS = (LoadConfig, LatencyConfig, QuantizeConfig, TrainingConfig)


def test_metrics_that_are_named_exist() -> None:
    known = {spec.exported for spec in METRICS} | ENGINE_PROCESS
    named = set(re.findall(r"\bheadrace_\w+", TEXT))
    beginnings = {name for name in named if name.endswith("_") and any(each.startswith(name) for each in known)}
    assert named - known - beginnings == set()


def test_flags_that_are_named_exist() -> None:
    options = [*OPTIONS.values(), *(option for config in CONFIGS for option in options_of(config))]
    known = {option.flag for option in options} | FOREIGN_FLAGS | KEYS_FLAGS
    known |= {option.flag.replace("--", "--no-", 1) for option in options if option.kind is bool}
    commands = re.findall(r"^ {4,}headrace .*", re.sub(r" \\\n +", " ", TEXT), re.MULTILINE)
    named = {flag for text in [*INLINE, *commands] for flag in re.findall(r"(?<![\w-])--[a-z][\w-]+", text)}
    assert commands
    assert named - known == set()


def test_variables_that_are_named_exist() -> None:
    known = {option.variable for option in OPTIONS.values()} | set(OTHER_VARIABLES)
    texts = [
        TEXT,
        *(path.read_text() for path in DEPLOY.rglob("*") if path.is_file() and path.suffix not in (".json", ".pyc")),
    ]
    named = {name for text in texts for name in re.findall(r"\bHEADRACE_[A-Z_]+\b", text)}
    assert named - known == set()


def test_paths_that_are_named_are_served() -> None:
    served = {route.path for router in ROUTERS for route in router.routes}
    named = set(re.findall(r"127\.0\.0\.1:8000(/[\w/-]+)", TEXT))
    named |= {span.split()[-1] for span in INLINE if re.fullmatch(r"((GET|POST|PUT|DELETE) )?/[a-z][a-z-]+", span)}
    assert named
    assert named - served == set()
