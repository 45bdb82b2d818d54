"""The site's search finds the recipes by the words of their questions, and endpoints in the page of the API."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the site needs mkdocs-material (extra `docs`)")

from mkdocs.commands.build import build
from mkdocs.config import load_config

from tests.helpers.repository import ROOT

_SCRIPT = Path(__file__).with_name("search_site.mjs")
_TIMEOUT_S = 600.0
_FIRST = {
    "a GGUF behind nginx with keys and Grafana": "recipes/#a-gguf-behind-nginx-with-keys-and-grafana",
    "gguf behind nginx": "recipes/#a-gguf-behind-nginx-with-keys-and-grafana",
    "grafana": "recipes/#a-gguf-behind-nginx-with-keys-and-grafana",
    "fine-tune on my file": "recipes/#fine-tune-train-a-model-on-my-own-file",
    "train on my own data": "recipes/#fine-tune-train-a-model-on-my-own-file",
    "finetune": "recipes/#fine-tune-train-a-model-on-my-own-file",
    "why is it slow": "recipes/#why-is-it-slow",
    "slow tokens": "recipes/#why-is-it-slow",
    "which quantization": "recipes/#which-quantization-should-i-choose",
    "which quantization should I choose": "recipes/#which-quantization-should-i-choose",
    "responses api": "protocols/#openais-responses-api",
    "embeddings": "embeddings/",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder)))
    return folder


def test_a_question_finds_its_recipe_first(site: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the site's search is tested where it is")
    output = subprocess.run(
        [node, _SCRIPT, site],
        input=json.dumps([*_FIRST]),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=True,
    ).stdout
    found = dict(zip(_FIRST, json.loads(output), strict=True))
    assert {query: sections[0] for query, sections in found.items()} == _FIRST, found


def test_the_search_knows_every_endpoint_and_no_object(site: Path) -> None:
    sections = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    api = {section["title"]: section["text"] for section in sections if section["location"].startswith("api/")}
    assert api.keys() == {"The API", "Endpoints"}
    assert "POST /v1/chat/completions" in api["Endpoints"]
    assert "{ data-search-exclude }" not in (site / "api" / "index.html").read_text()
