"""models/README.md names every place of a decoder that a family's NAMES can send a tensor to."""

import re
from collections import defaultdict

from models.architecture.decoder import DecoderSpec
from models.decoder import Decoder
from models.layers.activation import Xielu
from models.layers.attention.qk_norm import OwnWeightsNorm
from models.layers.recurrence.gated_delta import ConvTaps
from models.layers.recurrence.token_shift import TokenShift
from models.linear.linear import Linear
from tests.helpers.checkpoints import cpu_compute
from tests.helpers.repository import ROOT
from tests.helpers.techniques import described, described_as
from tests.models.families.all_variants import ALL_VARIANTS
from tests.models.families.pooling_models import POOLING_MODELS

README = ROOT / "models" / "README.md"

Places = dict[str, set[str]]  # module -> its shards, and its parameters beside weight and bias


def test_every_place_is_in_the_table() -> None:
    found: Places = defaultdict(set)
    generating = {described(make())[1] for make in ALL_VARIANTS.values()}
    pooling = {described_as(architecture, make()) for (architecture, _), make in POOLING_MODELS.items()}
    for spec in generating | pooling:
        for module, names in places_of(spec).items():
            found[module] |= names

    assert found == documented()


def places_of(spec: DecoderSpec) -> Places:
    decoder = Decoder(spec, cpu_compute())
    places: Places = {}
    for full_name, module in decoder.named_modules():
        name = re.sub(r"(expand|merge)\.\d+", r"\1.{e}", full_name)
        parameters = {parameter for parameter, _ in module.named_parameters(recurse=False)}
        if parameters:
            template = re.sub(r"experts\.\d+", "experts.{e}", re.sub(r"layers\.\d+", "layers.{i}", name))
            named = module.shards if isinstance(module, Linear | OwnWeightsNorm | Xielu | ConvTaps | TokenShift) else ()
            shards = {re.sub(r"\d+", "{e}", shard) for shard in named}
            places[template] = places.get(template, set()) | shards | parameters - {"weight", "bias"}
    return places


def documented() -> Places:
    """Of the table's first two columns. A name that begins with a dot stands beside the one before it."""
    places: Places = defaultdict(set)
    table = README.read_text().partition("| place |")[2].partition("\n\n")[0]
    for row in table.splitlines()[2:]:
        cells = row.split("|")
        module = ""
        for name in re.findall(r"`([^`]+)`", cells[1]):
            module = module.rpartition(".")[0] + name if name.startswith(".") else name
            places[module] |= set(re.findall(r"`([^`]+)`", cells[2]))
    return places
