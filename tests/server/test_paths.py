"""What of a path stands behind the prefix of --root-path."""

import pytest

from server.paths import route_path

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        ("/live", "", "/live"),
        ("/llm/live", "/llm", "/live"),
        ("/llm", "/llm", ""),
        ("/llmlive", "/llm", "/llmlive"),
        ("/live", "/llm", "/live"),
    ],
)
def test_the_prefix_is_taken_off_as_a_folder(path: str, root: str, expected: str) -> None:
    assert route_path({"path": path, "root_path": root}) == expected
