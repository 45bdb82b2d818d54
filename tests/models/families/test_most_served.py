"""The architectures that are served most: how many of them run, and how."""

from collections import Counter

from tests.models.families.most_served import MOST_SERVED, WITHOUT_FAMILY, ServedAs, has_gguf_files, served_as

_IN_GGUF = 57
_WITH_FAMILY = 59


def test_most_of_the_sixty_have_a_family() -> None:
    counts = Counter(served_as(architecture) for architecture in MOST_SERVED)

    assert counts.total() == 60
    assert counts[ServedAs.FAMILY] + counts[ServedAs.LANGUAGE_MODEL] >= _WITH_FAMILY
    assert sum(has_gguf_files(architecture) for architecture in MOST_SERVED) >= _IN_GGUF


def test_the_rest_is_accounted_for() -> None:
    without = {architecture for architecture in MOST_SERVED if served_as(architecture) is ServedAs.NO_FAMILY}

    assert without == set(WITHOUT_FAMILY)
