"""Which models --pull-allow lets clients fetch, and what they may call them."""

import pytest

from engine.errors import InvalidRequest
from server.errors import NotServed, PullNotAllowed
from server.pulling.names import PullNames

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("owner/*", "owner/repo"),
        ("owner/*", "owner/repo:Q4_K_M"),
        ("owner/*-GGUF", "owner/small-GGUF:folder/model.gguf"),
        ("owner/repo", "owner/repo:Q4_K_M"),
        ("owner/repo:Q4_K_M", "owner/repo:Q4_K_M"),
        ("gpt2", "gpt2"),
        ("pypi:tiny-model", "pypi:tiny-model"),
        ("pypi:tiny-model", "pypi:tiny-model==1.2"),
        ("pypi:tiny-model", "pypi:Tiny_Model"),
        ("pypi:Tiny.Model", "pypi:tiny-model"),
        ("pypi:tiny-model==1.*", "pypi:tiny-model==1.2"),
        ("pypi:part*", "pypi:part1==1.0+part2==1.0"),
        ("demo", "demo"),
        ("demo*", "demo:coder"),
        ("*", "owner/repo"),
    ],
)
def test_a_pattern_allows(pattern: str, name: str) -> None:
    assert PullNames(["other/*", pattern]).check(name) == name


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("owner/*", "other/repo"),
        ("owner/*", "Owner/repo"),
        ("owner/*", "owner"),
        ("owner/*", "xowner/repo"),
        ("owner/repo", "owner/repo2"),
        ("owner/repo:Q4_K_M", "owner/repo"),
        ("owner/repo:Q4_K_M", "owner/repo:Q8_0"),
        ("pypi:tiny", "pypi:tiny+other"),
        ("pypi:tiny", "pypi:other+tiny"),
        ("pypi:tiny==1.2", "pypi:tiny"),
        ("pypi:tiny==1.2", "pypi:tiny==1.3"),
        ("pypi:*", "owner/repo"),
        ("demo*", "demo-evil/repo"),
        ("owner*", "owner2/repo"),
        ("pypi*", "pypi-evil/repo"),
        ("demo", "demo:coder"),
        ("demo:coder", "demo"),
    ],
)
def test_what_no_pattern_names_is_refused(pattern: str, name: str) -> None:
    with pytest.raises(PullNotAllowed, match=r"may not be fetched; --pull-allow of this server names "):
        PullNames([pattern]).check(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "/etc/passwd",
        "./model",
        "../model",
        "~/model",
        "owner/repo/more",
        "owner/repo@refs/pr/1",
        "owner/repo:*",
        "owner/repo:../x",
        "pypi:",
        "pypi:--index-url=http://x",
        "pypi:tiny @ http://x",
        "pypi:tiny>=1",
        "http://x/model",
        "a" * 3000,
    ],
)
def test_what_is_no_download_is_refused_whatever_is_allowed(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"it must be OWNER/REPO, OWNER/REPO:QUANT, pypi:NAME, demo or demo:NAME"):
        PullNames(["*"]).check(name)


@pytest.mark.parametrize(
    ("given", "model"),
    [
        ("hf.co/owner/repo:Q4_K_M", "owner/repo:Q4_K_M"),
        ("huggingface.co/owner/repo", "owner/repo"),
        ("demo:latest", "demo"),
        ("owner/repo:latest", "owner/repo"),
        (" demo ", "demo"),
    ],
)
def test_ollamas_names_are_understood(given: str, model: str) -> None:
    assert PullNames(["*"]).check(given) == model


def test_without_patterns_nothing_is_fetched() -> None:
    with pytest.raises(NotServed, match="this server fetches no models; start it with --pull-allow PATTERN"):
        PullNames([]).check("demo")
