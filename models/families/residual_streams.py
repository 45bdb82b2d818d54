"""Several residual streams (AltUp), and Laurel, a product of low rank: spec, rules for names, GGUF fields."""

from typing import Any

from models.architecture.layer import StreamsSpec
from models.architecture.norm import NormSpec
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.families.name_map import To


def describe(config: HFConfig, norm: NormSpec) -> StreamsSpec:
    count = config.integer("altup_num_inputs", 4, minimum=2)
    active = config.integer("altup_active_idx", 0, minimum=0, maximum=count - 1)
    return StreamsSpec(count, active, norm, is_scaled=config.boolean("altup_correct_scale", True))


NAMES = {
    "model.altup_projections.{e}.*": To("streams.expand.{e}"),
    "model.altup_unembed_projections.{e}.*": To("streams.merge.{e}"),
    "model.layers.{i}.altup.correct_output_scale": To("layers.{i}.streams", parameter="scale"),
    "model.layers.{i}.altup.correction_coefs.*": To("layers.{i}.streams.correct_by"),
    "model.layers.{i}.altup.prediction_coefs.*": To("layers.{i}.streams.predict_by"),
    "model.layers.{i}.altup.modality_router.*": To("layers.{i}.streams.router"),
    "model.layers.{i}.altup.router_norm.*": To("layers.{i}.streams.router_norm"),
    "model.layers.{i}.laurel.linear_left.*": To("layers.{i}.laurel.left"),
    "model.layers.{i}.laurel.linear_right.*": To("layers.{i}.laurel.right"),
    "model.layers.{i}.laurel.post_laurel_norm.*": To("layers.{i}.laurel.norm"),
}

GGUF_NAMES = {
    "altup_proj.*": To("streams.expand.{e}"),
    "altup_unembd_proj.*": To("streams.merge.{e}"),
    "blk.{i}.altup_correct_scale.*": To("layers.{i}.streams", parameter="scale"),
    "blk.{i}.altup_correct_coef.*": To("layers.{i}.streams.correct_by"),
    "blk.{i}.altup_predict_coef.*": To("layers.{i}.streams.predict_by"),
    "blk.{i}.altup_router.*": To("layers.{i}.streams.router"),
    "blk.{i}.altup_router_norm.*": To("layers.{i}.streams.router_norm"),
    "blk.{i}.laurel_l.*": To("layers.{i}.laurel.left"),
    "blk.{i}.laurel_r.*": To("layers.{i}.laurel.right"),
    "blk.{i}.laurel_post_norm.*": To("layers.{i}.laurel.norm"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    laurel = file.tensors.get("blk.0.laurel_l.weight")
    return {
        "altup_num_inputs": file.integer("altup.num_inputs"),
        "altup_active_idx": file.integer("altup.active_idx", minimum=0),
        "laurel_rank": None if laurel is None else laurel.shape[0],
    }
