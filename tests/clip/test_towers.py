"""The towers of CLIP: descriptions, parameters, initialisation, and ways to compute that change no result."""

import json
import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from scipy.special import erf

from imagen_jax.clip.bag_of_words import BagOfWords
from imagen_jax.clip.text_transformer import TextTransformer
from imagen_jax.clip.towers import IMAGE_TOWERS, TEXT_TOWERS, describe_tower, make_tower
from imagen_jax.clip.transformer import exact_gelu
from imagen_jax.clip.vision_transformer import CLEAN, VisionTransformer, drop_patches, noise_features
from imagen_jax.errors import UserError
from imagen_jax.sharding.axes import UNNAMED, axes_of, remove_logical_axes, unnamed_parameters
from imagen_jax.sharding.mesh import make_mesh
from imagen_jax.sharding.placement import batch_placement, place_state

SIZES = {"width": 32, "layers": 3, "heads": 2, "hidden": 48, "embedding": 12}
TOKENS = {"vocabulary": 40, "context": 8, "end": 39}
IMAGE = {"name": "vision_transformer", "resolution": 16, "patch": 4, **SIZES}
TEXT = {"name": "transformer", **TOKENS, **SIZES}
BAG = {"name": "bag_of_words", **TOKENS, "width": 16, "hidden": 24, "embedding": 12}
RESNET = {"name": "resnet", "resolution": 32, "layers": [1, 2, 1, 1], "width": 8, "heads": 4, "embedding": 12}
DESCRIBED = {"vision_transformer": IMAGE, "transformer": TEXT, "bag_of_words": BAG, "resnet": RESNET}

LAYER = {
    **{f"attention/{name}/kernel": (32, 32) for name in ("query", "key", "value", "output")},
    **{f"attention/{name}/bias": (32,) for name in ("query", "key", "value", "output")},
    **{f"{name}/{leaf}": (32,) for name in ("attention_norm", "perceptron_norm") for leaf in ("scale", "bias")},
    "expand/kernel": (32, 48),
    "expand/bias": (48,),
    "contract/kernel": (48, 32),
    "contract/bias": (32,),
}
NORMS = {"last_norm/scale": (32,), "last_norm/bias": (32,), "projection/kernel": (32, 12)}
LAYERS = {f"layer_{index}/{path}": shape for index in range(3) for path, shape in LAYER.items()} | NORMS
IMAGE_SHAPES = LAYERS | {
    "class_token": (32,),
    "positions": (17, 32),
    "patches/kernel": (4, 4, 3, 32),
    "first_norm/scale": (32,),
    "first_norm/bias": (32,),
}
TEXT_SHAPES = LAYERS | {"tokens/embedding": (40, 32), "positions": (8, 32)}
"""The paths of version 0.1, which must not move."""


def make(described: dict, **changes) -> nn.Module:
    described = {**described, **changes}
    return make_tower(IMAGE_TOWERS if described["name"] in IMAGE_TOWERS else TEXT_TOWERS, described)


def new_params(tower, seed: int = 0):
    return remove_logical_axes(jax.jit(tower.init)(jax.random.key(seed), jnp.asarray(tower.example_input())))["params"]


def apply(tower, params, inputs, *arguments, **options):
    """The outputs of a tower, from one compiled program."""
    return jax.jit(lambda params, inputs: tower.apply({"params": params}, inputs, *arguments, **options))(
        params, inputs
    )


def random_params(tower, seed: int = 0):
    """Parameters that all matter: also biases and scales differ from their start."""
    leaves, tree = jax.tree.flatten(new_params(tower, seed))
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return jax.tree.unflatten(
        tree, [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    )


def inputs_of(tower, batch: int = 4):
    generator = np.random.default_rng(0)
    if hasattr(tower, "resolution"):
        return jnp.asarray(generator.normal(size=(batch, tower.resolution, tower.resolution, 3)).astype(np.float32))
    ids = generator.integers(0, tower.end, (batch, tower.context)).astype(np.int32)
    ids[np.arange(batch), 2 + np.arange(batch) % (tower.context - 2)] = tower.end
    return jnp.asarray(ids)


def run(tower, params, inputs):
    """The embeddings, and the gradient of a function of them that no norm makes constant."""

    def loss(params):
        embeddings = tower.apply({"params": params}, inputs)
        return (embeddings**2).sum() + embeddings[:, 0].sum(), embeddings

    return jax.jit(jax.grad(loss, has_aux=True))(params)


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_description_is_plain_data_and_makes_the_same_tower_again(name):
    tower = make(DESCRIBED[name])
    described = describe_tower(tower)
    assert json.loads(json.dumps(described)) == described
    assert described.items() >= DESCRIBED[name].items()
    assert make(described) == tower


@pytest.mark.parametrize(
    ("described", "facts"),
    [
        ({**IMAGE, "name": "vision_transfomer"}, "'vision_transfomer'.*'vision_transformer'"),
        ({**IMAGE, "name": None}, "None.*resnet, transformer"),
        ({**IMAGE, "widht": 3}, "'widht'.*'width'"),
        ({key: value for key, value in IMAGE.items() if key != "heads"}, "lacks heads"),
        ({**IMAGE, "width": "many"}, "width='many'"),
        ({**IMAGE, "first_norm": 1}, "first_norm=1"),
        ({**IMAGE, "heads": 5}, "5 heads .*width=32"),
        ({**IMAGE, "patch": 5}, "5 pixels .*16 pixels"),
        ({**IMAGE, "activation": "gelu_new"}, "'gelu_new'.*'gelu'"),
        ({**IMAGE, "pool": "max"}, "'max'"),
        ({**IMAGE, "remat": "all"}, "'all'"),
        ({**IMAGE, "dtype": "float16"}, "'float16'"),
        ({**IMAGE, "patch_dropout": 1.0}, r"patch_dropout=1\.0"),
        ({**IMAGE, "layers": 0}, "layers=0"),
        ({**TEXT, "end": 40}, "end=40 .*40 tokens"),
        ({**TEXT, "pool": "eos"}, "'eos'"),
        ({**BAG, "heads": 2}, "'heads'"),
        ({**BAG, "width": 0}, "width=0"),
        ({**RESNET, "layers": [1, 1]}, r"layers=\(1, 1\)"),
        ({**RESNET, "layers": 4}, "layers=4"),
        ({**RESNET, "resolution": 40}, "resolution=40.*32"),
        ({**RESNET, "heads": 7}, "7 heads .*256 channels"),
        ({**RESNET, "norm": "batch"}, "'batch'"),
    ],
)
def test_a_tower_that_cannot_be_made_is_refused(described, facts):
    with pytest.raises(UserError, match=facts):
        make_tower(IMAGE_TOWERS | TEXT_TOWERS, described)


@pytest.mark.parametrize(("described", "shapes"), [(IMAGE, IMAGE_SHAPES), (TEXT, TEXT_SHAPES)], ids=["image", "text"])
def test_paths_and_shapes_of_parameters_are_as_before(described, shapes):
    found = flatten_dict(new_params(make(described)), sep="/")
    assert {path: leaf.shape for path, leaf in found.items()} == shapes
    assert {leaf.dtype for leaf in found.values()} == {jnp.dtype("float32")}


DEVIATIONS = {
    "attention/query": lambda width, layers: width**-0.5,
    "attention/value": lambda width, layers: width**-0.5,
    "attention/output": lambda width, layers: width**-0.5 * (2 * layers) ** -0.5,
    "expand": lambda width, layers: (2 * width) ** -0.5,
    "contract": lambda width, layers: width**-0.5 * (2 * layers) ** -0.5,
}


@pytest.mark.parametrize("name", ["vision_transformer", "transformer"])
def test_new_kernels_have_the_deviations_of_the_papers(name):
    tower = make(DESCRIBED[name], width=128, hidden=512, embedding=256, layers=2)
    params = flatten_dict(new_params(tower), sep="/")
    for path, deviation in DEVIATIONS.items():
        assert params[f"layer_1/{path}/kernel"].std() == pytest.approx(deviation(128, 2), rel=0.03), path
        assert not params[f"layer_1/{path}/bias"].any()
    assert params["projection/kernel"].std() == pytest.approx(128**-0.5, rel=0.03)
    if name == "transformer":
        assert params["tokens/embedding"].std() == pytest.approx(0.02, rel=0.03)
        assert params["positions"].std() == pytest.approx(0.01, rel=0.06)
    else:
        assert params["positions"].std() == pytest.approx(128**-0.5, rel=0.06)
        assert params["class_token"].std() == pytest.approx(128**-0.5, rel=0.2)


@pytest.mark.parametrize("name", DESCRIBED)
def test_every_large_parameter_has_named_axes(name):
    described = {**DESCRIBED[name], "width": 64} | ({"vocabulary": 4096} if "vocabulary" in DESCRIBED[name] else {})
    tower = make(described)
    axes = axes_of(jax.eval_shape(tower.init, jax.random.key(0), jnp.asarray(tower.example_input()))["params"])
    assert unnamed_parameters(axes) == [] and UNNAMED not in str(axes)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        pytest.param("vision_transformer", {"remat": "blocks"}, marks=pytest.mark.thorough),
        pytest.param("vision_transformer", {"scan": True}, marks=pytest.mark.thorough),
        ("vision_transformer", {"remat": "blocks", "scan": True}),
        pytest.param("transformer", {"remat": "blocks"}, marks=pytest.mark.thorough),
        pytest.param("transformer", {"scan": True}, marks=pytest.mark.thorough),
        pytest.param("transformer", {"remat": "blocks", "scan": True}, marks=pytest.mark.thorough),
        pytest.param("resnet", {"remat": "blocks"}, marks=pytest.mark.thorough),
    ],
)
def test_ways_to_compute_change_neither_parameters_nor_results(name, changes):
    tower, other = make(DESCRIBED[name]), make(DESCRIBED[name], **changes)
    params = random_params(tower)
    assert jax.tree.structure(new_params(other)) == jax.tree.structure(params)
    gradient, embeddings = run(tower, params, inputs_of(tower))
    other_gradient, other_embeddings = run(other, params, inputs_of(tower))
    np.testing.assert_allclose(other_embeddings, embeddings, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), other_gradient, gradient)
    assert np.abs(embeddings).max() > 0.1


@pytest.mark.parametrize("name", ["vision_transformer", "transformer"])
def test_layers_in_a_loop_are_in_the_program_once(name):
    counts = []
    for scan in (False, True):
        tower = make(DESCRIBED[name], scan=scan)
        lowered = jax.jit(tower.apply).lower({"params": new_params(tower)}, inputs_of(tower))
        counts.append(lowered.as_text().count("stablehlo.dot_general"))
    # A layer has four products of the attention's kernels, two of its scores, and two of the perceptron.
    assert counts[0] - counts[1] == 2 * 8


@pytest.mark.thorough
@pytest.mark.parametrize("name", DESCRIBED)
def test_bfloat16_is_near_float32_and_gives_float32(name):
    tower, half = make(DESCRIBED[name]), make(DESCRIBED[name], dtype="bfloat16")
    params, inputs = random_params(tower), inputs_of(tower)
    exact, found = (apply(each, params, inputs) for each in (tower, half))
    assert found.dtype == exact.dtype == jnp.float32 and np.any(found != exact)
    cosines = (exact * found).sum(axis=1) / jnp.linalg.norm(exact, axis=1) / jnp.linalg.norm(found, axis=1)
    assert cosines.min() > 0.999


@pytest.mark.thorough
@pytest.mark.parametrize("name", DESCRIBED)
def test_sharded_over_eight_devices_a_tower_computes_the_same(name):
    wide = {"width": 128, "hidden": 256} if name != "resnet" else {"width": 16, "resolution": 32, "layers": [1] * 4}
    if "transformer" in name:
        wide |= {"layers": 1}
    if "vocabulary" in DESCRIBED[name]:
        wide |= {"vocabulary": 512, "end": 511}
    tower = make(DESCRIBED[name], **wide)
    params, inputs = random_params(tower), inputs_of(tower, batch=8)
    gradient, embeddings = run(tower, params, inputs)
    axes = axes_of(jax.eval_shape(tower.init, jax.random.key(0), jnp.asarray(tower.example_input()))["params"])
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    placements = place_state(jax.eval_shape(lambda: params), axes, mesh)
    assert not all(one.is_fully_replicated for one in jax.tree.leaves(placements)), "something is sharded"
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, placements), jax.device_put(inputs, batch_placement(mesh, 8))
        found_gradient, found = run(tower, *placed)
    np.testing.assert_allclose(found, embeddings, rtol=1e-4, atol=1e-4)
    for path, leaf in flatten_dict(gradient, sep="/").items():
        other = flatten_dict(found_gradient, sep="/")[path]
        if path.endswith("key/bias"):
            # A softmax does not change if all keys get the same bias, so this gradient is zero but for rounding.
            assert max(np.abs(leaf).max(), np.abs(other).max()) < 1e-3, path
            continue
        np.testing.assert_allclose(other, leaf, rtol=2e-3, atol=2e-3 * np.abs(leaf).max(), err_msg=path)


def test_a_mesh_that_does_not_divide_the_heads_is_refused():
    tower = make(IMAGE, heads=1)
    params = new_params(make(IMAGE))
    with jax.set_mesh(make_mesh({"data": 4, "tensor": 2})), pytest.raises(UserError, match=r"mesh\.tensor=2 .*1 heads"):
        apply(tower, params, inputs_of(tower))


def test_gelu_is_exact():
    x = np.linspace(-5, 5, 101).astype(np.float32)
    np.testing.assert_allclose(exact_gelu(jnp.asarray(x)), x * (1 + erf(x / math.sqrt(2))) / 2, rtol=1e-5, atol=1e-6)


def test_activations_differ():
    first, second = (make(IMAGE, activation=name) for name in ("gelu", "quick_gelu"))
    params, images = random_params(first), inputs_of(first)
    outputs = [apply(each, params, images) for each in (first, second)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-4


def test_images_of_another_size_are_refused():
    tower = make(IMAGE)
    with pytest.raises(UserError, match=r"\(20, 20, 3\).*16"):
        apply(tower, new_params(tower), jnp.zeros((1, 20, 20, 3)))


@pytest.mark.thorough
def test_the_mean_pool_sees_no_order_of_patches_without_positions():
    tower = make(IMAGE, pool="mean")
    params = {**random_params(tower), "positions": jnp.zeros((17, 32))}
    images = inputs_of(tower)
    turned = images.reshape(4, 4, 4, 4, 4, 3)[:, ::-1, :, ::-1].reshape(images.shape)  # whole patches in reverse order
    first, second = (apply(tower, params, each) for each in (images, turned))
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)
    token = apply(make(IMAGE), params, images)
    assert np.abs(first - token).max() > 0.1


def test_patch_dropout_keeps_the_class_token_and_whole_patches():
    states = np.random.default_rng(0).normal(size=(5, 17, 6)).astype(np.float32)
    kept = np.asarray(drop_patches(jnp.asarray(states), 0.7, jax.random.key(1)))
    assert kept.shape == (5, 1 + math.floor(16 * 0.3), 6)
    np.testing.assert_array_equal(kept[:, 0], states[:, 0])
    chosen = [[np.flatnonzero((states[row] == one).all(axis=1)).item() for one in kept[row, 1:]] for row in range(5)]
    assert all(len(set(row)) == 4 and 0 not in row for row in chosen)
    assert len({tuple(sorted(row)) for row in chosen}) > 1, "each image loses its own patches"


def test_patch_dropout_is_for_training_alone():
    tower, without = make(IMAGE, patch_dropout=0.5), make(IMAGE)
    params, images = random_params(tower), inputs_of(tower)
    whole = apply(without, params, images)
    np.testing.assert_array_equal(apply(tower, params, images), whole)
    trained = [apply(tower, params, images, True, rngs={"dropout": jax.random.key(seed)}) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(trained[0], trained[1])
    assert all(np.abs(each - whole).max() > 1e-3 for each in trained)
    assert np.abs(trained[0] - trained[2]).max() > 1e-3


@pytest.mark.thorough
def test_a_tower_without_its_first_norm_lacks_its_parameters():
    assert flatten_dict(new_params(make(IMAGE)), sep="/").keys() - flatten_dict(
        new_params(make(IMAGE, first_norm=False)), sep="/"
    ).keys() == {"first_norm/scale", "first_norm/bias"}


def text_tower(**changes) -> TextTransformer:
    tower = make(TEXT, **changes)
    assert isinstance(tower, TextTransformer)
    return tower


def test_the_embedding_is_the_projected_state_of_the_end():
    tower = text_tower()
    params, ids = random_params(tower), inputs_of(tower)
    embeddings = apply(tower, params, ids)
    states = apply(tower, params, ids, method="states")
    both = apply(tower, params, ids, method="states_and_embeddings")
    ends = [list(row).index(39) for row in np.asarray(ids)]
    assert len(set(ends)) > 1
    expected = np.stack([states[row, end] for row, end in enumerate(ends)]) @ params["projection"]["kernel"]
    np.testing.assert_allclose(embeddings, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(both[0], states)
    np.testing.assert_array_equal(both[1], embeddings)


@pytest.mark.thorough
def test_fewer_positions_than_the_context_change_nothing():
    tower = text_tower()
    params, ids = random_params(tower), inputs_of(tower, batch=2)
    cut = np.asarray(ids)[:, :4]
    assert (cut == 39).any(axis=1).all()
    np.testing.assert_allclose(apply(tower, params, jnp.asarray(cut)), apply(tower, params, ids), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["transformer", "bag_of_words"])
def test_more_positions_than_the_context_are_refused(name):
    tower = make(DESCRIBED[name])
    with pytest.raises(UserError, match=r"9 tokens .*8"):
        apply(tower, new_params(tower), jnp.zeros((1, 9), jnp.int32))


@pytest.mark.parametrize(
    ("pool", "row", "position"),
    [
        ("end", [3, 39, 5, 39], 1),
        pytest.param("end", [3, 4, 5, 6], 0, marks=pytest.mark.thorough),
        pytest.param("argmax", [3, 7, 38, 5], 2, marks=pytest.mark.thorough),
        pytest.param("first", [3, 39, 5, 6], 0, marks=pytest.mark.thorough),
        pytest.param("last", [3, 39, 5, 6], 3, marks=pytest.mark.thorough),
    ],
)
def test_the_position_that_is_pooled(pool, row, position):
    tower = text_tower(pool=pool, causal=False, projection_bias=True)
    params, ids = random_params(tower), jnp.asarray([row], jnp.int32)
    state = apply(tower, params, ids, method="states")[0, position]
    expected = state @ params["projection"]["kernel"] + params["projection"]["bias"]
    np.testing.assert_allclose(apply(tower, params, ids)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.thorough
def test_only_a_causal_tower_is_blind_to_later_tokens():
    ids = inputs_of(text_tower())
    changed = ids.at[:, -1].set(1)
    for causal in (True, False):
        tower = text_tower(causal=causal)
        params = random_params(tower)
        states = [apply(tower, params, each, method="states")[:, 1] for each in (ids, changed)]
        assert (np.abs(states[0] - states[1]).max() < 1e-6) == causal


def test_a_bag_of_words_is_the_mean_of_its_tokens():
    tower = make(BAG, hidden=0)
    assert isinstance(tower, BagOfWords)
    params, ids = random_params(tower), inputs_of(tower)
    found = apply(tower, params, ids)
    for row, caption in zip(found, np.asarray(ids), strict=True):
        tokens = caption[: list(caption).index(39) + 1]
        mean = np.mean([params["tokens"]["embedding"][token] for token in tokens], axis=0)
        expected = mean @ params["projection"]["kernel"] + params["projection"]["bias"]
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-5)


def test_a_bag_of_words_sees_no_order_and_no_padding():
    tower = make(BAG)
    params = random_params(tower)
    rows = [[1, 5, 6, 39, 0, 0], [1, 6, 5, 39, 7, 8], [1, 39, 0, 0, 0, 0], [39, 1, 5, 6, 0, 0]]
    first, second, empty, _ = apply(tower, params, jnp.asarray(rows, jnp.int32))
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)
    assert np.abs(first - empty).max() > 0.01 and np.isfinite(empty).all()


@pytest.mark.thorough
def test_frozen_statistics_get_no_gradient_and_all_else_does():
    tower = make(RESNET)
    gradient, _ = run(tower, random_params(tower), inputs_of(tower, batch=2))
    for path, leaf in flatten_dict(gradient, sep="/").items():
        assert np.any(leaf != 0) == (not path.endswith(("/mean", "/variance"))), path


@pytest.mark.thorough
def test_frozen_batch_norm_is_an_affine_map_of_each_channel():
    tower = make(RESNET)
    params = random_params(tower)
    stem = {**params["stem_norm_1"], "variance": jnp.full(4, 2.0), "mean": jnp.full(4, 0.5)}
    same = {
        "variance": jnp.ones(4) - 1e-5,
        "mean": jnp.zeros(4),
        "scale": stem["scale"] / jnp.sqrt(2 + 1e-5),
        "bias": stem["bias"] - 0.5 * stem["scale"] / jnp.sqrt(2 + 1e-5),
    }
    images = inputs_of(tower, batch=2)
    first, second = (apply(tower, {**params, "stem_norm_1": norm}, images) for norm in (stem, same))
    np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", ["frozen_batch", "group"])
@pytest.mark.thorough
def test_an_image_does_not_depend_on_its_batch(norm):
    tower = make(RESNET, norm=norm)
    params, images = random_params(tower), inputs_of(tower, batch=3)
    whole = apply(tower, params, images)
    np.testing.assert_allclose(apply(tower, params, images[1:2])[0], whole[1], rtol=1e-3, atol=1e-4)
    assert np.abs(whole[0] - whole[1]).max() > 1e-3


@pytest.mark.thorough
def test_group_normalisation_sees_no_scale_of_the_image():
    tower = make(RESNET, norm="group")
    params, images = random_params(tower), inputs_of(tower, batch=2)
    first, second = (apply(tower, params, factor * images) for factor in (1.0, 3.0))
    np.testing.assert_allclose(first, second, rtol=2e-2, atol=1e-2)


def test_a_new_residual_branch_adds_nothing():
    tower = make(RESNET)
    params = flatten_dict(new_params(tower), sep="/")
    assert not params["stage_2_block_1/norm_3/scale"].any() and params["stage_2_block_1/norm_2/scale"].all()
    changed = {**params, "stage_2_block_1/conv_2/kernel": jnp.ones_like(params["stage_2_block_1/conv_2/kernel"])}
    images = inputs_of(tower, batch=1)
    outputs = [apply(tower, unflatten_dict(each, sep="/"), images) for each in (params, changed)]
    np.testing.assert_array_equal(outputs[0], outputs[1])


def test_a_vision_transformer_has_as_many_parameters_as_published():
    """ViT-B/32 of CLIP: 87.85 million in the image tower, by hand: 12 layers, patches, positions, norms, projection."""
    width, hidden = 768, 3072
    layer = 4 * (width * width + width) + 2 * width * hidden + hidden + width + 4 * width
    expected = 12 * layer + 32 * 32 * 3 * width + width + 50 * width + 4 * width + width * 512
    tower = VisionTransformer(224, 32, width, 12, 12, hidden, 512)
    shapes = jax.eval_shape(tower.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected == 87_849_216


@pytest.mark.thorough
def test_a_tower_of_noisy_images_is_told_their_noise_level():
    tower = VisionTransformer(8, 4, 16, 1, 2, 32, 6, noise_conditioned=True)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    params = remove_logical_axes(tower.init(jax.random.key(0), images)["params"])
    levels = jnp.array([-3.0, 5.0])
    # The noise level starts without effect, as its layer starts with zeros.
    apply = partial(tower.apply, {"params": params})
    np.testing.assert_array_equal(apply(images, log_snr=levels), apply(images))
    # Not the same for all channels, which the norm would take away.
    params["noise"]["kernel"] = jax.random.normal(jax.random.key(1), params["noise"]["kernel"].shape)
    told, clean = apply(images, log_snr=levels), apply(images)
    assert np.abs(told - clean).max() > 1e-3
    np.testing.assert_allclose(apply(images, log_snr=jnp.full(2, CLEAN)), clean, atol=1e-6)
    # Nearby levels are told apart, far ones too.
    features = np.asarray(noise_features(jnp.linspace(-20, 20, 81), 16))
    distances = np.linalg.norm(features[:, None] - features[None], axis=2) + 10 * np.eye(81)
    assert distances.min() > 0.3
