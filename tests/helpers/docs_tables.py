"""What is generated in the documents, and the dashboard: `python -m tests.helpers.docs_tables` writes them,
test_docs_tables.py and test_deploy.py compare."""

import re
from pathlib import Path

from models.families.registry import FAMILIES, MULTIMODAL, POOLING_FAMILIES, Architecture
from server.app import ROUTERS
from server.commands.options.arguments import show_default
from server.commands.options.definitions import OPTIONS, OTHER_VARIABLES, Option
from server.data.rules.quality import RULES
from server.metrics.table import METRICS
from server.openapi.document import operations
from tests.helpers.api_docs import api_text
from tests.helpers.chart_schema import SCHEMA, schema_text
from tests.helpers.dashboard import DASHBOARD, dashboard_text
from tests.helpers.import_floors import FLOORS, floor_table, picture
from tests.helpers.repository import ROOT
from tests.helpers.techniques import described, described_as, techniques_of
from tests.models.families.all_variants import ALL_VARIANTS
from tests.models.families.converted_files import converted_architectures
from tests.models.families.most_served import MOST_SERVED, WITHOUT_FAMILY, ServedAs, served_as
from tests.models.families.pooling_models import POOLING_MODELS

Table = list[tuple[str, ...]]


def option_table() -> Table:
    rows: Table = [("option", "default", "what it does")]
    for option in OPTIONS.values():
        what = re.sub(r" \(default: .*\)", "", option.help)
        rows.append((_flags(option), _default(option), what))
    return rows


def _flags(option: Option) -> str:
    if option.kind is bool:
        return f"`--[no-]{option.flag.removeprefix('--')}`"
    return f"`{option.flag} {option.metavar}`".replace("{", "").replace("}", "").replace(",", "|")


def _default(option: Option) -> str:
    """The words in the help where the default is not a value."""
    words = re.search(r"\(default: (.*)\)", option.help)
    return words[1] if words else f"`{show_default(option)}`"


def variable_table() -> Table:
    return [("variable", "what it is"), *((f"`{name}`", what) for name, what in OTHER_VARIABLES.items())]


def metric_table() -> Table:
    rows: Table = [("metric", "type", "labels", "what it counts")]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "-"
        rows.append((f"`{metric.exported}`", metric.type.value, labels, metric.help))
    return rows


def endpoint_table() -> Table:
    rows: Table = [("endpoint", "what it does")]
    for method, path, route in operations(route for router in ROUTERS for route in router.routes):
        rows.append((f"`{method} {path}`", route.summary or route.description.partition("\n")[0]))
    return rows


def quality_table() -> Table:
    rows: Table = [("rule", "measure", "bounds", "source")]
    for rule in RULES:
        rows.append((f"`{rule.name}`", rule.meaning, "none" if rule.group == "chat" else rule.bounds, rule.source))
    return rows


def model_table() -> Table:
    rows: Table = [("architecture", "family", "GGUF", "converter", "beyond Llama", "run with real weights")]
    tested = _tested_techniques()
    converted = converted_architectures()
    for architecture, entry in sorted(FAMILIES.items(), key=lambda item: item[0].lower()):
        module = entry.family.partition(":")[0]
        file = f"[{module}](../models/families/{module}.py)"
        techniques = ", ".join(tested[architecture]) or "-"
        proof = "compared" if architecture in converted else "-"
        rows.append((f"`{architecture}`", file, _gguf_files(entry), proof, techniques, entry.seen or "-"))
    return rows


def most_served_table() -> Table:
    rows: Table = [("models", "architecture", "served by", "GGUF")]
    entries = {**FAMILIES, **MULTIMODAL}
    for architecture, models in sorted(MOST_SERVED.items(), key=lambda item: item[1].lower()):
        served = served_as(architecture)
        if served is ServedAs.NO_FAMILY:
            rows.append((models, f"`{architecture}`", WITHOUT_FAMILY[architecture], "none"))
        else:
            rows.append((models, f"`{architecture}`", str(served), _gguf_files(entries[architecture])))
    return rows


def multimodal_table() -> Table:
    rows: Table = [("class", "usual language model", "GGUF", "converter")]
    converted = converted_architectures()
    for architecture, entry in sorted(MULTIMODAL.items(), key=lambda item: item[0].lower()):
        proof = "compared" if architecture in converted else "-"
        rows.append((f"`{architecture}`", f"`{entry.wraps}`", _gguf_files(entry), proof))
    return rows


def pooling_model_table() -> Table:
    rows: Table = [("architecture", "family", "GGUF", "beyond Llama", "run with real weights")]
    tested: dict[str, list[str]] = {}
    for (architecture, _), make in POOLING_MODELS.items():
        known = tested.setdefault(architecture, [])
        known += [name for name in techniques_of(described_as(architecture, make())) if name not in known]
    for architecture, entry in POOLING_FAMILIES.items():
        module = entry.family.partition(":")[0]
        file = f"[{module}](../models/families/{module}.py)"
        techniques = ", ".join(tested[architecture]) or "-"
        rows.append((f"`{architecture}`", file, _gguf_files(entry), techniques, entry.seen or "-"))
    return rows


def _gguf_files(entry: Architecture) -> str:
    if entry.gguf is None:
        return "none" if entry.gguf_as is None else f"as `{entry.gguf_as}`"
    names = ", ".join(f"`{name}`" for name in entry.gguf_names)
    sign = entry.gguf_key or entry.gguf_tensor
    return f"{names} with `{sign}`" if sign else names


def _tested_techniques() -> dict[str, list[str]]:
    """Of each architecture, what the configurations of the parity tests ask for."""
    techniques: dict[str, list[str]] = {}
    for make in ALL_VARIANTS.values():
        architecture, spec = described(make())
        known = techniques.setdefault(architecture, [])
        known += [name for name in techniques_of(spec) if name not in known]
    return techniques


def markdown(table: Table) -> str:
    head, *rows = (tuple(cell.replace("|", "\\|") for cell in row) for row in table)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows))


def with_part(text: str, name: str, part: str) -> str:
    """`text` with what stands between the two marker comments of `name` replaced."""
    pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    replaced, count = pattern.subn(lambda match: f"{match[1]}{part}\n{match[2]}", text)
    assert count == 1, f"there are {count} places for {name!r}"
    return replaced


def parts() -> list[tuple[str, Path, str]]:
    """Every generated part: the name in its marker, the document that it is in, its text."""
    docs = ROOT / "docs"
    tables = [
        ("endpoints", docs / "api.md", endpoint_table()),
        ("options", docs / "options.md", option_table()),
        ("variables", docs / "options.md", variable_table()),
        ("metrics", docs / "metrics.md", metric_table()),
        ("rules of quality", docs / "data.md", quality_table()),
        ("models", docs / "models.md", model_table()),
        ("most served models", docs / "models.md", most_served_table()),
        ("multimodal models", docs / "models.md", multimodal_table()),
        ("pooling models", docs / "models.md", pooling_model_table()),
        *((f"rooms of {package}", ROOT / package / "README.md", floor_table(package)) for package in FLOORS),
    ]
    floors = f"```\n{picture()}\n```"
    return [
        *((name, document, markdown(table)) for name, document, table in tables),
        ("floors", docs / "architecture.md", floors),
        ("floors", ROOT / "CONTRIBUTING.md", floors),
        ("api", docs / "api.md", api_text()),
    ]


if __name__ == "__main__":
    for name, document, part in parts():
        document.write_text(with_part(document.read_text(), name, part))
    DASHBOARD.write_text(dashboard_text())
    SCHEMA.write_text(schema_text())
