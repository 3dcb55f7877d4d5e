"""Both U-Nets: what they must read, and what they must not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.array_types import LowResolution, Text
from imagen_jax.diffusion.conditions import Conditions, Labels, TokenSequence, Vectors
from imagen_jax.errors import UserError
from imagen_jax.models import NETWORKS
from imagen_jax.sharding.axes import remove_logical_axes
from tests.drawn_params import draw_params
from tests.tiers import thorough_except

SMALL = {
    "unet": {"channels": 8, "channel_multipliers": (1, 2), "blocks_per_level": 1, "attention_resolutions": (8,),
             "head_channels": 4, "text_heads": 2},
    "efficient_unet": {"channels": (8, 16), "blocks": (1, 1), "strides": (2, 2), "self_attention": (False, True),
                       "cross_attention": (False, True), "heads": 2, "text_heads": 2},
    "efficient_unet, in patches": {"channels": (8, 16), "blocks": (1, 1), "strides": (1, 2), "patch": 2,
                                   "self_attention": (False, True), "cross_attention": (False, True), "heads": 2,
                                   "text_heads": 2, "embedding_width": 24, "input_gates": True},
}  # fmt: skip

ONE_LEVEL = {
    "unet": {"channel_multipliers": (1,), "attention_resolutions": (16,)},
    "efficient_unet": {},
    "efficient_unet, in patches": {},
}
"""Changes for tests of what one level shows too."""

FEWER = thorough_except(("efficient_unet, in patches",), SMALL)
ONE = thorough_except(("unet",), SMALL)

NOISY = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
LOG_SNR = jnp.asarray([-1.0, 2.0])
TEXT = Text(jax.random.normal(jax.random.key(1), (2, 5, 12)), jnp.asarray([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], bool))
TOLD = Conditions(text=TEXT)
LOW = LowResolution(jax.random.normal(jax.random.key(2), (2, 4, 4, 3)), jnp.asarray([3.0, 3.0]))


def make(name, **changes):
    """A small network; the name may have options after a comma."""
    return NETWORKS[name.partition(",")[0]](**{**SMALL[name], **changes})


def params_for(module, *inputs, **named):
    """Parameters of a network that is given these, none of which is zero."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(3), *inputs, **named)["params"])
    return draw_params(remove_logical_axes(shapes))


@pytest.fixture(params=FEWER, scope="module")
def network(request):
    """A network of every input, and its output as a function of those inputs."""
    module = make(request.param)
    params = params_for(module, NOISY, LOG_SNR, Conditions(text=TEXT, low_resolution=LOW), estimate=NOISY)
    apply = jax.jit(module.apply)

    def run(noisy=NOISY, log_snr=LOG_SNR, text=TEXT, low=LOW, estimate=NOISY):
        return np.asarray(
            apply({"params": params}, noisy, log_snr, Conditions(text=text, low_resolution=low), estimate=estimate)
        )

    return run


def change(before, after):
    """How much each example's output changed."""
    return np.abs(after - before).max(axis=(1, 2, 3))


@pytest.mark.parametrize("name", ONE)
def test_a_new_network_returns_zeros(name):
    """The last layer starts at zero (Dhariwal & Nichol 2021), so that the first loss is that of an output of zeros."""
    module = make(name, **ONE_LEVEL[name])
    output, _ = jax.jit(module.init_with_output)(jax.random.key(3), NOISY, LOG_SNR, TOLD)
    assert output.shape == NOISY.shape and output.dtype == jnp.float32 and not np.any(output)


def test_every_input_is_read(network):
    before = network()
    assert np.all(change(before, network(noisy=NOISY + 0.5)) > 1e-3)
    assert np.all(change(before, network(log_snr=LOG_SNR + 1)) > 1e-3)
    assert np.all(change(before, network(text=Text(-TEXT.embeddings, TEXT.mask))) > 1e-3)
    assert np.all(change(before, network(estimate=NOISY + 0.5)) > 1e-3)
    assert np.all(change(before, network(low=LOW._replace(image=LOW.image + 0.5))) > 1e-3)
    assert np.all(change(before, network(low=LOW._replace(log_snr=LOW.log_snr - 2))) > 1e-3)


def test_padding_of_the_text_is_not_read(network):
    before = network()
    hidden = Text(TEXT.embeddings.at[1, 2:].set(9.0), TEXT.mask)
    np.testing.assert_allclose(network(text=hidden), before, atol=1e-5)
    longer = Text(jnp.pad(TEXT.embeddings, ((0, 0), (0, 3), (0, 0))), jnp.pad(TEXT.mask, ((0, 0), (0, 3))))
    np.testing.assert_allclose(network(text=longer), before, atol=1e-4)


def test_examples_do_not_see_each_other(network):
    before = network()
    after = network(noisy=NOISY.at[0].add(1.0))
    assert change(before, after)[0] > 1e-3 and change(before, after)[1] < 1e-5


def test_order_of_tokens_is_left_to_the_text_encoder(network):
    """Attention over the caption is a set operation: position lives in the encoder's embeddings."""
    swapped = Text(TEXT.embeddings[:, jnp.asarray([1, 0, 2, 3, 4])], TEXT.mask)
    np.testing.assert_allclose(network(text=swapped), network(), atol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ONE)
def test_bfloat16_stays_near_float32_and_keeps_float32_parameters(name):
    outputs = []
    for dtype in (jnp.float32, jnp.bfloat16):
        module = make(name, dtype=dtype, **ONE_LEVEL[name])
        params = params_for(module, NOISY, LOG_SNR, TOLD)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
        outputs.append(np.asarray(jax.jit(module.apply)({"params": params}, NOISY, LOG_SNR, TOLD)))
    assert outputs[1].dtype == np.float32
    assert 0 < np.abs(outputs[0] - outputs[1]).mean() < 0.05 * outputs[0].std()


@pytest.mark.thorough
@pytest.mark.parametrize("name", ONE)
def test_dropout_only_in_training(name):
    module = make(name, dropout=0.5, **ONE_LEVEL[name])
    params = params_for(module, NOISY, LOG_SNR, TOLD)
    apply = jax.jit(module.apply, static_argnames="train")

    def run(key, train):
        rngs = {"dropout": jax.random.key(key)}
        return np.asarray(apply({"params": params}, NOISY, LOG_SNR, TOLD, train=train, rngs=rngs))

    assert np.array_equal(run(0, False), run(1, False)) and not np.allclose(run(0, True), run(1, True))


def test_efficient_unet_runs_no_block_at_the_resolution_it_leaves():
    """Imagen, appendix F.1: a level shrinks before its blocks and enlarges after them."""
    module = NETWORKS["efficient_unet"](**SMALL["efficient_unet"])
    _, seen = jax.eval_shape(
        lambda: module.init_with_output(
            jax.random.key(0), NOISY, LOG_SNR, TOLD, mutable=["params", "intermediates"], capture_intermediates=True
        )
    )
    heights = {
        name: outputs["__call__"][0].shape[1]
        for name, outputs in seen["intermediates"].items()
        if name.split("_")[-1].isdigit() and name.split("_")[0] in ("down", "up")
    }
    assert heights == {"down_0_0": 8, "down_1_0": 4, "up_1_0": 4, "up_0_0": 8}


VECTOR = Vectors(jax.random.normal(jax.random.key(4), (2, 7)), jnp.asarray([True, False]))
LABEL = Labels(jnp.asarray([2, 1]), jnp.asarray([True, False]))

OPTIONS = {
    "vectors are added": ({}, {"image_vector": VECTOR, "text_vector": VECTOR}),
    "vectors are tokens too": ({"vector_tokens": 3}, {"image_vector": VECTOR}),
    "vectors are tokens beside the text": (
        {"vector_tokens": 3, "text_channels": 6},
        {"image_vector": VECTOR, "text": TEXT},
    ),
    "class": ({"classes": 3}, {"label": LABEL}),
    "addition": ({"embedding_enters": "addition"}, {"text": TEXT}),
    "random Fourier features": ({"time_features": "fourier"}, {"text": TEXT}),
}


@pytest.mark.parametrize(
    "option", thorough_except(["vectors are tokens beside the text", "class", "random Fourier features"], OPTIONS)
)
@pytest.mark.parametrize("name", thorough_except(["unet"], ["unet", "efficient_unet"]))
def test_each_kind_of_condition_and_embedding_is_read(name, option):
    """All that is told changes the output, and what an example lacks does not."""
    fields, parts = OPTIONS[option]
    module = make(name, **fields, **ONE_LEVEL[name])
    conditions = Conditions(**parts)
    params = params_for(module, NOISY, LOG_SNR, conditions)
    apply = jax.jit(module.apply)

    def run(log_snr=LOG_SNR, **changed):
        return np.asarray(apply({"params": params}, NOISY, log_snr, conditions._replace(**changed)))

    before = run()
    assert before.shape == NOISY.shape and np.all(change(before, run(LOG_SNR + 1)) > 1e-3)
    for part, there in parts.items():
        if part == "text":
            assert np.all(change(before, run(text=Text(-TEXT.embeddings, TEXT.mask))) > 1e-3)
            continue
        other = (there[0] + 1) % 3 if part == "label" else there[0] + 1.0
        changed = change(before, run(**{part: there._replace(**{there._fields[0]: other})}))
        assert changed[0] > 1e-3 and changed[1] == 0, "only the example that has the part"
        assert change(before, run(**{part: there._replace(present=jnp.asarray([False, False]))}))[0] > 1e-3


def test_parts_that_no_layer_reads_are_refused():

    def trace(conditions, **changes):
        jax.eval_shape(lambda: make("unet", **changes).init(jax.random.key(0), NOISY, LOG_SNR, conditions))

    with pytest.raises(UserError, match="classes"):
        trace(Conditions(label=LABEL))
    tokens = TokenSequence(jnp.zeros((2, 3), int), jnp.ones((2, 3), bool))
    with pytest.raises(UserError, match="tokens"):
        trace(Conditions(tokens=tokens))
    wider = VECTOR._replace(values=jnp.ones((2, VECTOR.values.shape[1] + 1)))
    with pytest.raises(UserError, match="text_channels"):
        trace(Conditions(image_vector=VECTOR, text_vector=wider), vector_tokens=2)


@pytest.mark.parametrize("channels", thorough_except([4], [1, 4, 8]))
@pytest.mark.parametrize("name", FEWER)
def test_images_of_other_channels(name, channels):
    noisy = jnp.ones((2, 16, 16, channels))
    module = make(name, out_channels=channels)
    low = Conditions(low_resolution=LowResolution(noisy[:, ::4, ::4], LOG_SNR))
    output = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), noisy, LOG_SNR, low)[0])
    assert output.shape == noisy.shape


def test_the_middle_goes_without_attention():
    with_it, without = (
        jax.eval_shape(lambda on=on: make("unet", middle_attention=on).init(jax.random.key(0), NOISY, LOG_SNR, TOLD))
        for on in (True, False)
    )
    assert set(with_it["params"]) - set(without["params"]) == {"middle_attention"}
