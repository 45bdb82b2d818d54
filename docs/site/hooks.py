"""What the site needs beyond docs/: pages that lie elsewhere, and links that lead where these are on a site.

The documents are written to be read in the repository, where a link to a source leads to the source. On the site it
leads to the repository, if `repo_url` says where that is; else only its text is left.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]

# Documents outside of docs/, by path in the repository: their page on the site.
PAGES = {
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
_SOURCES = {page: source for source, page in PAGES.items()}
# How much a page counts in the site's search: questions first, records last.
_BOOSTS = {"recipes.md": 4.0, "requests.md": 2.0, "performance.md": 0.5, "contributing.md": 0.5, "changelog.md": 0.2}
_OBJECTS = re.compile(r"^(##+ (?!Endpoints$).+)$", re.MULTILINE)  # of api.md, which has a third of all words
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside of docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page's text with the links of the site. Raises ValueError on a link to what is not in the repository."""
    source = _SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    page.meta["search"] = {"boost": _BOOSTS.get(page.file.src_uri, 1.0)}
    if page.file.src_uri == "api.md":  # found by its endpoints only
        markdown = _OBJECTS.sub(r"\1 { data-search-exclude }", markdown)
    code = [match.span() for match in _CODE.finditer(markdown)]

    def moved(link: re.Match[str]) -> str:
        mark, text, target = link.groups()
        if any(first <= link.start() < last for first, last in code) or re.match(r"[a-z]+:|#", target):
            return link[0]
        path, _, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if not (ROOT / path).exists():
            raise ValueError(f"{source} links to {target}, but there is no {path}")
        on_site = PAGES.get(path) or path.removeprefix("docs/")
        if on_site in files.src_uris:
            return f"{mark}[{text}]({on_site}{anchor and '#' + anchor})"
        return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path})" if config.repo_url else text

    return _LINK.sub(moved, markdown)
