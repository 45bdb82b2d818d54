"""`headrace doctor`: its parser, checks, output and exit code."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from engine.child_processes.environment import compute_environment
from engine.command_io.findings import DoctorResult, Finding, ModelToCheck, Severity, ok, problem, warning
from engine.command_io.program import as_typed
from engine.config import EngineConfig
from engine.errors import OptionError
from engine.wording import counted
from server.commands.doctor.models import models_findings
from server.commands.doctor.options import options_findings
from server.commands.doctor.process import process_findings
from server.commands.options.arguments import Parser, add_options, serve_options
from server.commands.options.definitions import OPTIONS
from server.commands.options.sources import options_file, resolve_options
from server.config.server import ServerConfig

_EPILOG = """\
examples:
  headrace doctor
  headrace doctor /path/to/model --max-model-len 8192
  headrace doctor /path/to/model OWNER/REPO --config server.yaml
  headrace doctor --json
"""
_TIMEOUT_S = 300.0  # for importing torch from a cold disk, and compiling a small library
_MARKS: Mapping[Severity, str] = {Severity.OK: "ok  ", Severity.WARNING: "warn", Severity.PROBLEM: "FAIL"}


def run(argv: Sequence[str]) -> int:
    """Run all checks, print the findings and return the exit code. Raises OptionError for an unknown flag."""
    namespace = doctor_parser().parse_args(argv)
    flags, models = serve_options(namespace)
    findings = list(all_findings(flags, os.environ, options_file(namespace.config), models))
    if namespace.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(findings)).decode() + "\n")
    else:
        sys.stdout.write(report(findings))
    return 1 if any(finding.severity is Severity.PROBLEM for finding in findings) else 0


def all_findings(
    flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None, models: Sequence[str] = ()
) -> Iterator[Finding]:
    """Yield the findings of all checks. Invalid options become a finding; the machine is then checked with default
    options, and no model is checked.

    file: the YAML file of options, or None. models: the positional arguments.
    """
    try:
        server_config, engine_config = resolve_options(flags, environ, file, models)
        yield ok("options", f"from {file}, variables and flags" if file else "from variables and flags")
    except OptionError as error:
        yield problem("options", str(error))
        yield from process_findings(ServerConfig())
        yield from options_findings(ServerConfig(), EngineConfig())
        yield from _engine_part([]).findings
        yield warning("models", "not checked; correct the options first")
        return
    yield from process_findings(server_config)
    yield from options_findings(server_config, engine_config)
    entries = server_config.models.entries
    checked = _engine_part(
        [ModelToCheck(each.name, each.engine) for each in entries] or [ModelToCheck("", engine_config)]
    )
    yield from checked.findings
    yield from models_findings(server_config.models, engine_config, checked.weighed)


def _engine_part(models: Sequence[ModelToCheck]) -> DoctorResult:
    """Run the checks that need torch in a child process, and return their findings."""
    command = [sys.executable, "-P", "-m", "engine.commands.doctor", msgspec.json.encode(models).decode()]
    try:
        process = subprocess.run(
            command,
            env=compute_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        return msgspec.json.decode(process.stdout, type=DoctorResult)
    except subprocess.TimeoutExpired:
        reason = f"did not end within {_TIMEOUT_S:g} s"
    except msgspec.DecodeError:
        lines = process.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        reason = f"ended with {process.returncode}: {lines[-1]}"
    return DoctorResult([problem("engine", f"the process that loads torch {reason}")], [None] * len(models))


def report(findings: Sequence[Finding]) -> str:
    """Format the findings as lines, with a last line that counts problems."""
    width = max(len(finding.subject) for finding in findings)
    lines = [f"{_MARKS[each.severity]}  {each.subject:{width}}  {as_typed(each.message)}" for each in findings]
    counts = {kind: sum(each.severity is kind for each in findings) for kind in (Severity.PROBLEM, Severity.WARNING)}
    totals = [counted(count, kind.value) for kind, count in counts.items() if count]
    return "\n".join([*lines, "", ", ".join(totals) or "no problems found"]) + "\n"


def doctor_parser() -> Parser:
    parser = Parser(
        prog="headrace doctor",
        usage="headrace doctor [MODEL ...] [options of headrace serve] [--json]",
        description="Check this machine and the options of headrace serve, and report problems. Nothing is downloaded, "
        "and no weights are read. The exit code is 1 if the server would not start or would fail.",
        epilog=_EPILOG,
    )
    parser.add_argument("positional_models", nargs="*", metavar="MODEL", help=OPTIONS["model"].help)
    parser.add_argument("--json", action="store_true", help="Print the findings as a JSON list.")
    parser.add_argument("--config", metavar="FILE", help="YAML file of options, as for headrace serve.")
    add_options(parser, OPTIONS.values(), many="append")
    return parser
