"""diffusers' pipeline of a DeepFloyd IF base with seeded weights, and its folder as the released ones are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.reference.deepfloyd_folders import SCHEDULER
from tests.reference.t5_folders import write_t5_folder


def write_if_pipeline(settings: Mapping[str, Any], t5: Path, folder: Path) -> Any:
    """Makes the pipeline and writes it.

    Args:
        settings: of the U-Net, as in its ``config.json``.
        t5: where a small text encoder is written first.
        folder: of the pipeline.
    """
    from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel
    from transformers import T5EncoderModel, T5Tokenizer

    write_t5_folder(t5)
    pipeline = IFPipeline(
        tokenizer=T5Tokenizer.from_pretrained(t5, extra_ids=0),
        text_encoder=T5EncoderModel.from_pretrained(t5),
        unet=UNet2DConditionModel(**{key: value for key, value in settings.items() if not key.startswith("_")}).eval(),
        scheduler=DDPMScheduler.from_config(SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    # As the released folders have it; transformers 5 writes another file instead.
    (folder / "tokenizer" / "spiece.model").write_bytes((t5 / "spiece.model").read_bytes())
    return pipeline
