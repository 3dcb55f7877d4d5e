"""Karlo's networks and their gradients against diffusers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from imagen_jax.array_types import LowResolution, Text
from imagen_jax.diffusion.conditions import Conditions, Vectors
from imagen_jax.models import NETWORKS
from imagen_jax.weight_formats.karlo_settings import read_decoder, read_prior, read_upsampler
from imagen_jax.weight_formats.karlo_tensors import export_karlo_weights, import_karlo_weights
from imagen_jax.weights.named_tensors import parameter_shapes
from tests.reference import karlo_models as reference

pytestmark = pytest.mark.references


def build(fields, **more):
    """The network that the fields of a config describe."""
    fields = fields | more
    return NETWORKS[fields.pop("name")](**fields)


def output_and_gradients(name, network, tensors, inputs, cotangent):
    """Our output, and our gradients by folder and diffusers' names."""
    levels = len(getattr(network, "channels", ()))
    params = import_karlo_weights(name, tensors, parameter_shapes(network.init, *inputs), levels)

    @jax.jit
    def run(params):
        output, pull_back = jax.vjp(lambda params: network.apply({"params": params}, *inputs), params)
        return output, *pull_back(cotangent)

    with jax.default_matmul_precision("highest"):
        output, gradients = run(params)
    flat = {path: np.asarray(array) for path, array in flatten_dict(gradients, sep="/").items()}
    return np.asarray(output), export_karlo_weights(name, flat, levels)


def check_gradients(ours, theirs):
    """All but mean and deviation of the embeddings, which are no parameters here, at 1e-4 of the greatest."""
    assert ours.keys() == theirs.keys() and all(np.any(gradient) for gradient in theirs.values())
    for key, gradient in theirs.items():
        np.testing.assert_allclose(
            ours[key], gradient, rtol=0, atol=1e-4 * max(1.0, np.abs(gradient).max()), err_msg=key
        )


def everything(inputs):
    return Conditions(
        text=Text(jnp.asarray(inputs["text"]), jnp.asarray(inputs["mask"])),
        text_vector=Vectors(jnp.asarray(inputs["text_vector"]), jnp.ones(reference.BATCH, bool)),
        image_vector=Vectors(jnp.asarray(inputs["image_vector"]), jnp.ones(reference.BATCH, bool)),
    )


def test_prior():
    inputs, prior = reference.make_inputs(), reference.make_module("prior")
    theirs = reference.run_prior(prior, inputs)
    cotangent = np.random.default_rng(1).standard_normal(theirs.shape).astype(np.float32)
    expected = reference.gradients_of(theirs, cotangent, prior=prior)
    network = build(read_prior(reference.PRIOR), noise_conditioning="timestep")
    told = everything(inputs)._replace(image_vector=None)
    arguments = jnp.asarray(inputs["vector"]), jnp.asarray(inputs["steps"]), told
    output, gradients = output_and_gradients(
        "prior", network, reference.tensors_of(prior=prior), arguments, jnp.asarray(cotangent)
    )
    np.testing.assert_allclose(output, theirs.detach(), rtol=0, atol=1e-5)
    check_gradients(gradients, expected)


def test_decoder_with_and_without_an_image_vector():
    inputs, decoder, text_proj = reference.make_inputs(), *map(reference.make_module, ("decoder", "text_proj"))
    modules = {"decoder": decoder, "text_proj": text_proj}
    theirs = reference.run_decoder(decoder, text_proj, inputs)
    cotangent = np.random.default_rng(1).standard_normal((2 * reference.BATCH, 16, 16, 6)).astype(np.float32)
    expected = reference.gradients_of(theirs, cotangent, **modules)
    network = build(read_decoder(reference.DECODER, reference.PROJECTIONS))
    twice = jax.tree.map(lambda array: jnp.concatenate([array, array]), everything(inputs))
    present = jnp.arange(2 * reference.BATCH) >= reference.BATCH
    # What an absent vector holds is not read.
    vector = Vectors(jnp.where(present[:, None], twice.image_vector.values, 99.0), present)
    noisy, steps = (jnp.concatenate([jnp.asarray(inputs[name])] * 2) for name in ("noisy", "steps"))
    arguments = noisy, steps, twice._replace(image_vector=vector)
    output, gradients = output_and_gradients(
        "karlo_unet", network, reference.tensors_of(**modules), arguments, jnp.asarray(cotangent)
    )
    np.testing.assert_allclose(output, np.moveaxis(theirs.detach().numpy(), 1, -1), rtol=0, atol=1e-4)
    check_gradients(gradients, expected)


def test_both_super_resolution_networks():
    inputs = reference.make_inputs() | {"steps": np.asarray([500.0, 0.0], np.float32)}
    modules = {name: reference.make_module(name) for name in ("super_res_first", "super_res_last")}
    theirs = {name: reference.run_upsampler(module, inputs) for name, module in modules.items()}
    cotangent = np.random.default_rng(1).standard_normal((reference.BATCH, 32, 32, 3)).astype(np.float32)
    expected = {}
    for row, (name, module) in enumerate(modules.items()):
        own = np.where(np.arange(reference.BATCH)[:, None, None, None] == row, cotangent, 0.0)
        expected |= reference.gradients_of(theirs[name], own, **{name: module})
    network = build(read_upsampler(reference.UPSAMPLER, reference.UPSAMPLER))
    told = Conditions(low_resolution=LowResolution(jnp.asarray(inputs["enlarged"]), jnp.zeros(reference.BATCH)))
    noisy, steps = jnp.asarray(inputs["large"]), jnp.asarray(inputs["steps"])
    tensors = reference.tensors_of(**modules)
    params = import_karlo_weights(
        "karlo_upsampler", tensors, parameter_shapes(network.init, noisy, steps, told), len(network.channels)
    )

    @jax.jit
    def train(params):
        output, pull_back = jax.vjp(
            lambda params: network.apply({"params": params}, noisy, steps, told, train=True), params
        )
        return output, *pull_back(cotangent)

    with jax.default_matmul_precision("highest"):
        output, gradients = train(params)
        sample = jax.jit(lambda steps: network.apply({"params": params}, noisy, steps, told))
        in_sampling = [sample(jnp.full(2, step)) for step in (500.0, 0.0)]
    for row, name in enumerate(modules):
        mine = np.moveaxis(theirs[name].detach().numpy(), 1, -1)[row]
        assert mine.std() > 0.1
        np.testing.assert_allclose(output[row], mine, rtol=0, atol=1e-4)
        np.testing.assert_allclose(in_sampling[row][row], mine, rtol=0, atol=1e-4)
    flat = {path: np.asarray(array) for path, array in flatten_dict(gradients, sep="/").items()}
    check_gradients(export_karlo_weights("karlo_upsampler", flat, len(network.channels)), expected)
