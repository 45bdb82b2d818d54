"""The manifests in deploy/kubernetes, which `python -m tests.helpers.manifests [HELM]` renders from the Helm chart.

tests/integrations/test_kubernetes.py compares. HELM is the program, helm by default.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.helpers.deploy_files import CHART, MANIFESTS

_HEAD = "# Rendered from deploy/helm/headrace by `python -m tests.helpers.manifests`: change the chart.\n"
# Of each file: the template, and what its values are beside those of deploy/kubernetes/values.yaml.
RENDERED: dict[str, tuple[str, Sequence[str]]] = {
    "serviceaccount.yaml": ("serviceaccount", ()),
    "configmap.yaml": ("configmap", ()),
    "deployment.yaml": ("deployment", ()),
    "service.yaml": ("service", ()),
    "poddisruptionbudget.yaml": ("poddisruptionbudget", ()),
    "networkpolicy.yaml": ("networkpolicy", ()),
    "monitoring/servicemonitor.yaml": ("servicemonitor", ()),
    "monitoring/prometheusrule.yaml": ("prometheusrule", ()),
    "autoscaling/hpa.yaml": ("horizontalpodautoscaler", ("--set", "autoscaling.kind=hpa")),
    "autoscaling/keda.yaml": ("scaledobject", ("--set", "autoscaling.kind=keda")),
}


def rendered(helm: Path | str, arguments: Sequence[str]) -> str:
    """What the chart becomes as the release "headrace" in the namespace of that name."""
    command = [str(helm), "template", "headrace", str(CHART), "--namespace", "headrace", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def manifests(helm: Path | str) -> Iterator[tuple[Path, str]]:
    """Each file and its text."""
    for name, (template, values) in RENDERED.items():
        shown = ("--show-only", f"templates/{template}.yaml")
        text = rendered(helm, ["--values", str(MANIFESTS / "values.yaml"), *values, *shown])
        lines = [line for line in text.splitlines() if line != "---" and not line.startswith("# Source: ")]
        yield MANIFESTS / name, _HEAD + "\n".join(lines).strip() + "\n"


if __name__ == "__main__":
    for path, text in manifests(sys.argv[1] if len(sys.argv) > 1 else "helm"):
        path.write_text(text)
