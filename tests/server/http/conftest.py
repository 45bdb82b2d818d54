"""Fixtures of tests of keys."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.fake_client import FakeClient, says
from tests.helpers.key_site import Site


@pytest.fixture
def site(tmp_path: Path) -> Callable[..., Site]:
    return lambda *entries, script=None, **options: Site(
        tmp_path, FakeClient(script or says("Hello")), *entries, **options
    )
