"""The documents build as a site in which every link and anchor leads somewhere."""

import logging
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the site needs mkdocs-material (extra `docs`)")

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort, BuildError

from tests.helpers.repository import ROOT

_CONFIG = str(ROOT / "mkdocs.yml")


def test_the_site_builds_without_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mkdocs"):
        build(load_config(_CONFIG, site_dir=str(tmp_path)))
    assert caplog.messages == []
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= {f"{path.name}.md" for path in tmp_path.iterdir()}
    start = (tmp_path / "index.html").read_text()
    assert 'href="security/"' in start
    assert 'src="images/chat.png"' in start


@pytest.mark.parametrize("link", ["other.md", "../README.md#no-such-part", "../nowhere.py"])
def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path, link: str) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "pages.md").write_text(f"# Pages\n\n[there]({link})\n")
    nav = [{"Start": "index.md"}, {"Pages": "pages.md"}]
    config = load_config(_CONFIG, site_dir=str(tmp_path / "site"), docs_dir=str(docs), nav=nav)
    with pytest.raises((Abort, BuildError, ValueError), match=r"Aborted|nowhere\.py|other\.md"):
        build(config)
