"""DeepFloyd IF against diffusers itself: the U-Net and its gradients, and pictures of a whole cascade."""

import jax
import numpy as np
import pytest

from imagen_jax.cascades import load_cascade
from imagen_jax.diffusion.schedules import discrete_cosine
from imagen_jax.export_weights import export_stage
from imagen_jax.import_weights import import_stage
from imagen_jax.sampling.cascade import keys_of_prompts
from imagen_jax.sampling.pictures import to_pixels
from imagen_jax.sampling.sampler import fold_into_each, normal_for_each
from tests.reference.deepfloyd_models import SETTINGS
from tests.reference.t5_folders import write_t5_folder

pytestmark = pytest.mark.references

PROMPTS = ["Red apple ", "a panda eating bamboo in the rain"]
SEED = 3
STEPS = (12, 6)


@pytest.mark.parametrize("name", SETTINGS)
def test_output_and_every_gradient_equal_diffusers(name):
    from tests.models.test_deepfloyd_unet import output_and_gradients
    from tests.reference.make_deepfloyd_reference import compute

    tensors, expected, expected_gradients = compute(name)
    output, gradients = output_and_gradients(name, tensors)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-4)
    for key, gradient in expected_gradients.items():
        np.testing.assert_allclose(gradients[key], gradient, rtol=0, atol=1e-4, err_msg=key)


def test_schedule_equals_diffusers():
    from diffusers import DDPMScheduler

    signal = DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod.numpy().astype(np.float64)
    log_snr = np.asarray(discrete_cosine(np.arange(1, 1001, dtype=np.float32) / 1000))
    np.testing.assert_allclose(log_snr, np.log(signal / (1 - signal)), atol=1e-3)


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    """Both stages as diffusers has them, random weights, and the folders that diffusers wrote of them."""
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
        "requires_safety_checker": False,
    }
    made = []
    for number, (name, size, bound) in enumerate([("stage_1", 16, 1.5), ("stage_2", 64, 1.0)]):
        torch.manual_seed(number)
        settings = {key: value for key, value in SETTINGS[name].items() if not key.startswith("_")}
        network = UNet2DConditionModel(**settings | {"sample_size": size})
        scheduler = DDPMScheduler(
            variance_type="learned_range", beta_schedule="squaredcos_cap_v2", prediction_type="epsilon",
            thresholding=True, dynamic_thresholding_ratio=0.95, sample_max_value=bound,
        )  # fmt: skip
        if number == 0:
            pipeline = IFPipeline(unet=network, scheduler=scheduler, watermarker=None, **shared)
        else:
            noising = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
            pipeline = IFSuperResolutionPipeline(
                unet=network, scheduler=scheduler, image_noising_scheduler=noising, watermarker=None, **shared
            )
        pipeline.set_progress_bar_config(disable=True)
        pipeline.save_pretrained(folder / name, safe_serialization=True)
        # Where the released folders have it; this version of transformers writes another file.
        (folder / name / "tokenizer" / "spiece.model").write_bytes((t5 / "spiece.model").read_bytes())
        made.append(pipeline)
    return made, folder


def our_noises(number, size, steps, low_size=None):
    """The noises that our sampler draws for one stage, in the order in which diffusers asks for them."""
    keys = fold_into_each(keys_of_prompts(SEED, PROMPTS, [0] * len(PROMPTS)), number)
    walk = fold_into_each(keys, 0)

    def draw(keys):
        return np.array(normal_for_each(keys, (size, size, 3))).transpose(0, 3, 1, 2)

    yield draw(fold_into_each(walk, 0))
    if number > 0:
        yield draw(fold_into_each(keys, 1))
    for step in range(steps):
        yield draw(fold_into_each(walk, step + 1))


def feed(monkeypatch, noises):
    """Makes diffusers take its noise from here."""
    import torch
    from diffusers.pipelines.deepfloyd_if import pipeline_if, pipeline_if_superresolution
    from diffusers.schedulers import scheduling_ddpm

    def give(shape, *_, **__):
        noise = torch.from_numpy(next(noises))
        assert noise.shape == shape
        return noise

    for module in (pipeline_if, pipeline_if_superresolution, scheduling_ddpm):
        monkeypatch.setattr(module, "randn_tensor", give)


def test_pictures_of_an_imported_cascade_equal_those_of_diffusers(pipelines, tmp_path, monkeypatch, capsys):
    import torch

    (base, large), folder = pipelines
    feed(monkeypatch, our_noises(0, 16, STEPS[0]))
    small = base(PROMPTS, num_inference_steps=STEPS[0], output_type="pt").images
    feed(monkeypatch, our_noises(1, 64, STEPS[1]))
    expected = large(PROMPTS, image=small.clamp(-1, 1), num_inference_steps=STEPS[1], output_type="pt").images
    assert torch.std(expected) > 0.1

    workdirs = [tmp_path / "base", tmp_path / "large"]
    for name, workdir in zip(("stage_1", "stage_2"), workdirs, strict=True):
        import_stage("deepfloyd_if", folder / name, workdir)
    assert capsys.readouterr().out.count("non-commercial research only") == 2
    with jax.default_matmul_precision("highest"):
        cascade = load_cascade(workdirs, {"steps": list(STEPS)}, batch_size=2)
        ours = next(cascade.draw(PROMPTS, seed=SEED))
    for mine, theirs in zip(ours, (small, expected), strict=True):
        theirs = to_pixels(theirs.permute(0, 2, 3, 1).numpy())
        difference = np.abs(to_pixels(mine).astype(int) - theirs.astype(int))
        assert difference.max() <= 2, f"{difference.max()} of 255 at {mine.shape[1]} px"


def test_diffusers_loads_what_we_export(pipelines, tmp_path):
    from diffusers import UNet2DConditionModel

    (_, large), folder = pipelines
    import_stage("deepfloyd_if", folder / "stage_2", tmp_path / "large")
    export_stage("deepfloyd_if", tmp_path / "large", tmp_path / "exported")
    loaded = UNet2DConditionModel.from_pretrained(tmp_path / "exported").state_dict()
    original = large.unet.state_dict()
    assert loaded.keys() == original.keys()
    assert all((loaded[key] == original[key]).all() for key in original)
