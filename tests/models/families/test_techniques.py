"""Every choice that a DecoderSpec offers is made by a tiny configuration that is compared with transformers."""

import dataclasses
import enum
import types
import typing
from collections.abc import Iterator

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import Activation, MLPSpec
from models.architecture.layer import LayerInputSpec
from models.architecture.pooling import ScoreHeadSpec, TokenPooling
from models.architecture.positions import DynamicScaling, FrequencyFactors, RopeSpec, YarnScaling
from models.architecture.recurrence import GatedDeltaSpec
from tests.helpers.repository import ROOT
from tests.helpers.techniques import described, described_as
from tests.models.families.all_variants import ALL_VARIANTS
from tests.models.families.pooling_models import POOLING_MODELS

Choice = tuple[type, str, object]  # of a spec's field: a value, a class, or ANOTHER

ANOTHER = "another number than the default"
# Choices of no configuration of transformers that fits a tiny model, and the test under tests/models for each.
COMPARED_ELSEWHERE: dict[Choice, str] = {
    (GatedDeltaSpec, "tiles_key_heads", True): "families/test_gguf_parity.py",
    (RopeSpec, "scaling", DynamicScaling): "layers/test_rotary_frequencies.py",
    (RopeSpec, "scaling", FrequencyFactors): "families/test_gguf_parity.py",
    (YarnScaling, "beta_fast", ANOTHER): "layers/test_rotary_frequencies.py",
    (YarnScaling, "beta_slow", ANOTHER): "layers/test_rotary_frequencies.py",
    # One function computes an activation, whatever it is a part of.
    (MLPSpec, "activation", Activation.TANH): "families/test_pooling_parity.py",
    **{(LayerInputSpec, "activation", kind): "families/test_parity.py" for kind in Activation},
    **{(ScoreHeadSpec, "dense_activation", kind): "families/test_parity.py" for kind in Activation},
    **{(ScoreHeadSpec, "pooling", kind): "pooling/test_scheme.py" for kind in TokenPooling},
}


def test_every_choice_of_a_spec_is_made_by_a_variant() -> None:
    specs = [described(make())[1] for make in ALL_VARIANTS.values()]
    specs += [described_as(architecture, make()) for (architecture, _), make in POOLING_MODELS.items()]
    made = {choice for spec in specs for choice in choices_made(spec)}

    assert set(choices_offered(DecoderSpec)) - made - COMPARED_ELSEWHERE.keys() == set()


def test_choices_that_no_variant_makes_have_a_test_elsewhere() -> None:
    assert [path for path in COMPARED_ELSEWHERE.values() if not (ROOT / "tests" / "models" / path).is_file()] == []


def choices_offered(spec: type) -> Iterator[Choice]:
    """Yield the choices of a spec and its parts: booleans, enum members, classes or None, another number."""
    hints = typing.get_type_hints(spec)
    for field in dataclasses.fields(spec):
        for kind in alternatives(hints[field.name]):
            if isinstance(kind, type) and issubclass(kind, enum.Enum):
                yield from ((spec, field.name, member) for member in kind)
            elif kind is bool:
                yield from ((spec, field.name, value) for value in (False, True))
            elif dataclasses.is_dataclass(kind) or field.default is None:
                yield spec, field.name, kind
            elif field.default is not dataclasses.MISSING:
                yield spec, field.name, ANOTHER
            if dataclasses.is_dataclass(kind):
                assert isinstance(kind, type)
                yield from choices_offered(kind)


def alternatives(hint: object) -> list[object]:
    """Return the classes that a field may hold, or the items of a tuple of specs."""
    if isinstance(hint, types.UnionType):
        return [kind for each in typing.get_args(hint) for kind in alternatives(each)]
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        return [item if dataclasses.is_dataclass(item) else tuple]
    return [hint]


def choices_made(spec: object) -> Iterator[Choice]:
    for field in dataclasses.fields(spec):  # type: ignore[arg-type]
        value = getattr(spec, field.name)
        yield type(spec), field.name, value if isinstance(value, bool | enum.Enum) else type(value)
        if value != field.default:
            yield type(spec), field.name, ANOTHER
        for inner in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(inner):
                yield type(spec), field.name, type(inner)
                yield from choices_made(inner)
