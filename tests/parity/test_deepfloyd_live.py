"""DeepFloyd IF against diffusers itself: the U-Net and its gradients, and images of a whole cascade."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.cascade.checkpoint_export import ImportChoices
from imagen_jax.cascade.image_files import file_name, to_pixels
from imagen_jax.diffusion.schedules import discrete_cosine
from imagen_jax.weight_formats.formats import export_stage, import_stage
from tests.reference import make_deepfloyd_reference as reference
from tests.reference.deepfloyd_folders import SIZES
from tests.reference.deepfloyd_models import SETTINGS
from tests.reference.t5_folders import write_t5_folder
from tests.tiers import thorough_except

pytestmark = pytest.mark.references


@pytest.mark.parametrize("name", thorough_except(["stage_2_with_self_attention"], SETTINGS))
def test_output_and_every_gradient_equal_diffusers(name):
    from tests.models.test_deepfloyd_unet import output_and_gradients

    tensors, expected, expected_gradients = reference.compute(name)
    output, gradients = output_and_gradients(name, tensors)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-4)
    for key, gradient in expected_gradients.items():
        np.testing.assert_allclose(gradients[key], gradient, rtol=0, atol=1e-4, err_msg=key)


def test_schedule_equals_diffusers():
    from diffusers import DDPMScheduler

    signal = DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod.numpy().astype(np.float64)
    log_snr = discrete_cosine(jnp.arange(1, 1001) / 1000)
    np.testing.assert_allclose(log_snr, np.log(signal / (1 - signal)), atol=1e-3)


@pytest.fixture(scope="module")
def written_by_diffusers(tmp_path_factory):
    """Both stages as diffusers has them, with its own random weights, and the folder that it wrote them into."""
    import torch
    from diffusers import DDPMScheduler, IFPipeline, IFSuperResolutionPipeline, UNet2DConditionModel
    from transformers import T5EncoderModel, T5Tokenizer

    folder = tmp_path_factory.mktemp("deepfloyd")
    t5 = write_t5_folder(folder / "t5")
    shared = {
        "tokenizer": T5Tokenizer.from_pretrained(t5, extra_ids=0),
        "text_encoder": T5EncoderModel.from_pretrained(t5),
        "safety_checker": None,
        "feature_extractor": None,
        "watermarker": None,
        "requires_safety_checker": False,
    }
    pipelines = []
    for number, (stage, bound) in enumerate([("stage_1", 1.5), ("stage_2", 1.0)]):
        torch.manual_seed(number)
        settings = {key: value for key, value in SETTINGS[stage].items() if not key.startswith("_")}
        shared["unet"] = UNet2DConditionModel(**settings | {"sample_size": SIZES[stage]})
        shared["scheduler"] = DDPMScheduler(
            variance_type="learned_range", beta_schedule="squaredcos_cap_v2", prediction_type="epsilon",
            thresholding=True, dynamic_thresholding_ratio=0.95, sample_max_value=bound,
        )  # fmt: skip
        noising = {"image_noising_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2")} if number else {}
        pipelines.append((IFSuperResolutionPipeline if number else IFPipeline)(**shared, **noising))
        pipelines[-1].save_pretrained(folder / stage, safe_serialization=True)
        # As the released folders have it; transformers 5 writes another file instead.
        (folder / stage / "tokenizer" / "spiece.model").write_bytes((t5 / "spiece.model").read_bytes())
    return folder, pipelines


@pytest.mark.thorough
def test_images_of_each_imported_stage_equal_those_of_diffusers(written_by_diffusers, tmp_path, capsys):
    folder, pipelines = written_by_diffusers
    for stage in SIZES:
        import_stage("deepfloyd_if", folder / stage, tmp_path / stage, ImportChoices(text_dtype="float32"))
    assert capsys.readouterr().out.count("non-commercial research only") == 2
    with jax.default_matmul_precision("highest"):
        cascade = load_cascade([tmp_path / stage for stage in SIZES], {"steps": list(reference.STEPS.values())}, 2)
        ours = next(cascade.draw(reference.PROMPTS, seed=reference.SEED))
    for stage, pipeline, mine, small in zip(SIZES, pipelines, ours, (None, ours[0]), strict=True):
        theirs = reference.draw(stage, pipeline, small)
        difference = np.abs(to_pixels(mine).astype(int) - to_pixels(theirs).astype(int))
        assert theirs.std() > 0.2 and difference.max() <= 2, f"{difference.max()} of 255 in {stage}"


@pytest.mark.thorough
def test_the_files_of_the_commands_equal_the_images_of_the_pipelines(written_by_diffusers, tmp_path):
    folder, (base, _) = written_by_diffusers

    def run(main, *flags):
        command = [sys.executable, "-m", f"imagen_jax.{main}", *flags]
        subprocess.run(command, check=True, capture_output=True, text=True)

    run("import_weights", "--format=deepfloyd_if", f"--source={folder / 'stage_1'}", f"--out={tmp_path / 'base'}",
        "--text_dtype=float32")  # fmt: skip
    run("sample", f"--stages={tmp_path / 'base'}", f"--out={tmp_path / 'pictures'}", f"--seed={reference.SEED}",
        f"--steps={reference.STEPS['stage_1']}", *(f"--prompt={prompt}" for prompt in reference.PROMPTS))  # fmt: skip
    expected = to_pixels(reference.draw("stage_1", base)).astype(int)
    for prompt, theirs in zip(reference.PROMPTS, expected, strict=True):
        with Image.open(tmp_path / "pictures" / f"{file_name(prompt, reference.SEED, 0)}.png") as image:
            assert np.abs(np.asarray(image).astype(int) - theirs).max() <= 2


def test_diffusers_loads_what_we_export(written_by_diffusers, tmp_path):
    from diffusers import UNet2DConditionModel

    folder, (_, large) = written_by_diffusers
    import_stage("deepfloyd_if", folder / "stage_2", tmp_path / "large")
    export_stage("deepfloyd_if", tmp_path / "large", tmp_path / "exported")
    loaded = UNet2DConditionModel.from_pretrained(tmp_path / "exported").state_dict()
    original = large.unet.state_dict()
    assert loaded.keys() == original.keys()
    assert all((loaded[key] == original[key]).all() for key in original)
