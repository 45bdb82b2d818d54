"""The documents build as a site in which every link and anchor leads somewhere."""

import logging
import re
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the site needs mkdocs-material (extra `docs`)")

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

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


def _build(folder: Path, link: str) -> None:
    """Build a site of the pages that lie outside of docs/, and one in it that has this link alone."""
    docs = folder / "docs"
    docs.mkdir()
    (docs / "only.md").write_text(f"# Only\n\n[there]({link})\n")
    (hooks,) = load_config(_CONFIG).hooks.values()
    nav = ["only.md", *hooks.PAGES.values()]
    build(load_config(_CONFIG, site_dir=str(folder / "site"), docs_dir=str(docs), nav=nav))


def test_a_link_to_a_part_of_a_page_outside_of_docs_leads_there(tmp_path: Path) -> None:
    _build(tmp_path, "../CHANGELOG.md#unreleased")
    assert 'href="../changelog/#unreleased"' in (tmp_path / "site" / "only" / "index.html").read_text()


@pytest.mark.parametrize("link", ["other.md", "../nowhere.py"])
def test_a_link_to_what_is_not_there_fails_the_build(tmp_path: Path, link: str) -> None:
    with pytest.raises(ValueError, match=f"links to {re.escape(link)}, but"):
        _build(tmp_path, link)


def test_a_link_to_a_part_that_is_not_there_fails_the_build(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mkdocs"), pytest.raises(Abort):
        _build(tmp_path, "../README.md#no-such-part")
    (message,) = caplog.messages
    assert "'#no-such-part'" in message
