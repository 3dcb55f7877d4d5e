"""Stage after stage, with stages that show their inputs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.array_types import Text
from imagen_jax.cascade.sampling_settings import SamplingSettings
from imagen_jax.cascade.stage_inputs import from_host, hand_on, keys_of_prompts, make_inputs, to_host
from imagen_jax.cascade.stage_sampler import MAX_PROGRESS_EVENTS, check_order, make_draw_stage, make_whole_program
from imagen_jax.diffusion.augmentation import enlarge_to_corners
from imagen_jax.diffusion.conditions import Conditions, Vectors
from imagen_jax.errors import UserError
from imagen_jax.sampling.sampler import fold_into_each
from imagen_jax.sampling.step_rules import ddim
from imagen_jax.sampling.thresholding import no_threshold, static_threshold
from tests.compiled_programs import kept_in
from tests.reference.imagen_statements import cosine_alpha_sigma
from tests.stages_of_functions import stage_of
from tests.tiers import thorough_except

TEXT = Text(jnp.ones((3, 2, 4)), jnp.ones((3, 2), bool))


def make_stage(resolution, low_resolution, make_denoiser, level=0.0, weight=1.0, threshold=no_threshold, steps=3):
    settings = SamplingSettings(steps, ddim(), weight, threshold, level)
    return stage_of(make_denoiser, (resolution, resolution, 3), settings, low_resolution)


def paint_params(params, conditions):
    """A base whose clean image is its parameter everywhere."""
    return lambda noisy, log_snr: jnp.broadcast_to(params, noisy.shape)


def repeat_low_resolution(params, conditions):
    """A super-resolution stage whose clean image is the low-resolution image it was handed, each pixel doubled."""
    return lambda noisy, log_snr: conditions.low_resolution.image.repeat(2, axis=1).repeat(2, axis=2)


def sample_all(stages, keys):
    """Each stage's images, of which the next one's are made."""
    images = [None]
    for number, stage in enumerate(stages):
        inputs = make_inputs(Conditions(text=TEXT), fold_into_each(keys, number)).with_low_resolution(images[-1])
        images.append(make_draw_stage(stage)(jnp.asarray(0.25), inputs))
    return images[1:]


def test_each_stage_gets_the_images_of_the_one_before():
    stages = [make_stage(4, None, paint_params), make_stage(8, 4, repeat_low_resolution)]
    small, large = sample_all(stages, keys_of_prompts(0, ["a", "b", "c"], [0, 0, 0]))
    np.testing.assert_allclose(small, np.full((3, 4, 4, 3), 0.25), atol=1e-3)
    np.testing.assert_allclose(large, np.full((3, 8, 8, 3), 0.25), atol=1e-3)


@pytest.mark.thorough
def test_the_low_resolution_image_is_noised_at_the_level_and_differs_by_image():
    level = 0.1
    stages = [make_stage(32, None, paint_params), make_stage(64, 32, repeat_low_resolution, level)]
    _, large = sample_all(stages, keys_of_prompts(0, ["a", "b", "c"], [0, 0, 0]))
    alpha, sigma = cosine_alpha_sigma(level)
    noise = np.asarray(large)[:, ::2, ::2] - alpha * 0.25
    assert noise.std() == pytest.approx(sigma, rel=0.03)
    assert np.abs(noise[0] - noise[1]).max() > 0.1


def test_a_stage_that_enlarges_first_is_noised_at_its_own_resolution():
    def show_condition(params, conditions):
        return lambda noisy, log_snr: conditions.low_resolution.image

    large = dataclasses.replace(make_stage(64, 32, show_condition, level=0.1), enlarge=enlarge_to_corners)
    _, image = sample_all([make_stage(32, None, paint_params), large], keys_of_prompts(0, ["a", "b", "c"], [0, 0, 0]))
    alpha, sigma = cosine_alpha_sigma(0.1)
    noise = np.asarray(image) - alpha * 0.25
    assert noise.std() == pytest.approx(sigma, rel=0.03)
    assert abs(np.corrcoef(noise[:, ::2, ::2].ravel(), noise[:, 1::2, ::2].ravel())[0, 1]) < 0.05


def test_guidance_moves_away_from_the_null_text():
    def paint_text(params, conditions):
        shade = (
            jnp.sum(conditions.text.embeddings, axis=(1, 2))[:, None, None, None] / 80
        )  # 0.1 with the text, 0 without
        return lambda noisy, log_snr: jnp.broadcast_to(shade, noisy.shape)

    stage = make_stage(4, None, paint_text, weight=4.0)
    images = sample_all([stage], keys_of_prompts(0, ["a", "b", "c"], [0, 0, 0]))[0]
    np.testing.assert_allclose(images, np.full((3, 4, 4, 3), 0.4), atol=1e-3)


def test_images_end_within_their_range():
    stage = make_stage(4, None, lambda *_: lambda noisy, log_snr: noisy * 9, threshold=static_threshold)
    assert np.abs(np.asarray(sample_all([stage], keys_of_prompts(0, ["a", "b", "c"], [0, 0, 0]))[0])).max() <= 1


@pytest.mark.parametrize("batched", [False, True])
def test_vectors_are_made_of_vectors_without_a_range_and_guided_away_from_their_absence(batched):
    """A stage that makes vectors, as a prior does: guidance 3 triples what the vector adds to its absence."""

    def double(params, conditions):
        vector = conditions.image_vector
        return lambda noisy, log_snr: 2 * jnp.where(vector.present[:, None], vector.values, 0.5)

    settings = SamplingSettings(3, ddim(), 3.0, no_threshold, batched_guidance=batched)
    stage = stage_of(double, (5,), settings, image_vector=5, value_range=None)
    vector = Vectors(jnp.arange(15.0).reshape(3, 5), jnp.ones(3, bool))
    inputs = make_inputs(Conditions(image_vector=vector), keys_of_prompts(0, ["a", "b", "c"], [0, 0, 0]))
    made = make_draw_stage(stage)(None, inputs)
    np.testing.assert_allclose(made, 3 * 2 * vector.values - 2 * 1.0, rtol=1e-3, atol=5e-3)


def test_what_a_prior_makes_is_told_to_the_next_stage():
    def paint_vector(params, conditions):
        shade = (conditions.image_vector.values.sum(1) * conditions.image_vector.present)[:, None, None, None]
        return lambda noisy, log_snr: jnp.broadcast_to(shade, noisy.shape)

    settings = SamplingSettings(3, ddim(), 1.0, no_threshold)
    vector = jnp.asarray([0.1, 0.2, -0.6])
    prior = stage_of(
        lambda *_: lambda noisy, log_snr: jnp.broadcast_to(vector[None], noisy.shape), (3,), settings, value_range=None
    )
    decoder = stage_of(paint_vector, (4, 4, 3), settings, image_vector=3)
    check_order([prior, decoder], ["prior", "decoder"])
    keys = keys_of_prompts(0, ["a", "b", "c"], [0, 0, 0])
    made = make_draw_stage(prior)(None, make_inputs(Conditions(text=TEXT), keys))
    images = make_draw_stage(decoder)(None, hand_on(make_inputs(Conditions(text=TEXT), keys), made))
    np.testing.assert_allclose(images, np.full((3, 4, 4, 3), -0.3), atol=1e-3)
    with pytest.raises(UserError, match=r"no vector.*vectors of 3"):
        check_order([prior, make_stage(4, None, paint_params)], ["prior", "base"])


def test_inputs_on_the_host_give_the_same_images():
    inputs = make_inputs(Conditions(text=TEXT), keys_of_prompts(0, ["a", "b", "c"], [0, 0, 0]))
    sample = make_draw_stage(make_bright_stage(2))
    host = to_host(inputs)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(host))
    there = jax.jit(lambda inputs: sample(None, from_host(inputs)))(host)
    np.testing.assert_allclose(there, sample(None, inputs), atol=1e-5)


@pytest.mark.parametrize("order", [[(8, 4)], [(8, 4), (4, None)], [(4, None), (16, 8)], [(4, None), (4, None)], []])
def test_stages_out_of_order_are_named(order):
    stages = [make_stage(high, low, paint_params) for high, low in order]
    with pytest.raises(UserError, match="--stages"):
        check_order(stages, [f"stage{n}" for n in range(len(stages))])


def test_no_steps_is_a_mistake():
    with pytest.raises(UserError, match="--steps"):
        make_draw_stage(make_stage(4, None, paint_params, steps=0))


def make_bright_stage(steps):
    """A base whose images depend on all that their noise was."""
    return make_stage(4, None, lambda *_: lambda noisy, log_snr: jnp.tanh(noisy), steps=steps)


@pytest.mark.parametrize("steps", thorough_except([2 * MAX_PROGRESS_EVENTS + 1], [1, 3, 2 * MAX_PROGRESS_EVENTS + 1]))
def test_each_step_is_reported_once_in_order_and_changes_no_image(steps):
    steps_seen = []
    inputs = make_inputs(Conditions(text=TEXT), keys_of_prompts(0, ["a", "b", "c"], [0, 0, 0]))
    reported = make_draw_stage(make_bright_stage(steps), steps_seen.append)(None, inputs)
    assert steps_seen == list(range(steps))
    plain = make_draw_stage(make_bright_stage(steps))(None, inputs)
    np.testing.assert_array_equal(reported, plain)
    whole = make_whole_program(make_bright_stage(steps))(None, inputs)
    np.testing.assert_allclose(whole, plain, atol=1e-5)


def test_programs_with_a_progress_bar_are_kept_for_the_next_run(tmp_path):
    steps_seen = []
    inputs = make_inputs(Conditions(text=TEXT), keys_of_prompts(0, ["a", "b", "c"], [0, 0, 0]))
    with kept_in(tmp_path):
        make_draw_stage(make_bright_stage(4), steps_seen.append)(None, inputs)
    assert steps_seen and any("advance" in file.name for file in tmp_path.iterdir())


def test_what_is_compiled_ahead_is_not_compiled_again_to_sample(caplog):
    steps_seen = []
    inputs = make_inputs(Conditions(text=TEXT), keys_of_prompts(0, ["a", "b", "c"], [0, 0, 0]))
    program = make_draw_stage(make_bright_stage(4), steps_seen.append)
    with jax.log_compiles():
        program.lower(None, inputs).compile()
        assert "XLA compilation of jit(advance)" in caplog.text and steps_seen == []
        caplog.clear()
        program(None, inputs)
    assert "jit(advance)" not in caplog.text and steps_seen == [0, 1, 2, 3]


def test_keys_are_a_function_of_seed_prompt_and_index():
    together = keys_of_prompts(7, ["a", "b", "a"], [0, 0, 1])
    assert (together[1] == keys_of_prompts(7, ["b"], [0])[0]).all()
    distinct = [together[0], together[1], together[2], keys_of_prompts(8, ["a"], [0])[0]]
    assert len({str(key) for key in distinct}) == 4
