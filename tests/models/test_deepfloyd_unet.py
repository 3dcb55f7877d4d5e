"""DeepFloyd IF's U-Net against what diffusers made of the same seeded weights, and what its importer refuses."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from imagen_jax.array_types import LowResolution, Text
from imagen_jax.diffusion.conditions import Conditions
from imagen_jax.errors import UserError
from imagen_jax.models.deepfloyd_unet import DeepFloydUNet
from imagen_jax.weight_formats.deepfloyd_tensors import (
    NEEDED,
    export_deepfloyd_weights,
    import_deepfloyd_weights,
    read_network,
    write_settings,
)
from imagen_jax.weights.named_tensors import parameter_shapes
from tests.reference.deepfloyd_models import SETTINGS, make_inputs, make_tensors
from tests.reference.make_deepfloyd_reference import GOLDEN, project
from tests.tiers import thorough_except, thorough_rows_except


def build(settings):
    fields = read_network(settings)
    fields.pop("name")
    return DeepFloydUNet(**fields)


def arguments(name):
    inputs = {key: jnp.asarray(array) for key, array in make_inputs(name).items()}
    text = Text(inputs["text"], jnp.ones(inputs["text"].shape[:2], bool))
    low_resolution = None
    if SETTINGS[name]["in_channels"] == 6:
        low_resolution = LowResolution(inputs["condition"], inputs["augmentation_steps"])
    return (inputs["noisy"], inputs["steps"], Conditions(text=text, low_resolution=low_resolution)), inputs["cotangent"]


def shapes_of(network, name):
    return parameter_shapes(network.init, *arguments(name)[0])


def imported(name, tensors):
    """A network, and its parameters from tensors of diffusers."""
    network = build(SETTINGS[name])
    return network, import_deepfloyd_weights(tensors, shapes_of(network, name), len(network.channels))


def output_and_gradients(name, tensors):
    """Our output, and our gradients by diffusers' names."""
    network, params = imported(name, tensors)
    inputs, cotangent = arguments(name)

    @jax.jit
    def run(params):
        output, pull_back = jax.vjp(lambda params: network.apply({"params": params}, *inputs), params)
        return output, *pull_back(cotangent)

    with jax.default_matmul_precision("highest"):
        output, gradients = run(params)
    flat = flatten_dict(jax.device_get(gradients), sep="/")
    return np.asarray(output), export_deepfloyd_weights(flat, len(network.channels))


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def golden_tensors(golden, name):
    shapes = json.loads(str(golden[f"{name}/shapes"]))
    return make_tensors({key: tuple(shape) for key, shape in shapes.items()})


def test_the_output_equals_that_of_diffusers(golden):
    network, params = imported("stage_1", golden_tensors(golden, "stage_1"))
    with jax.default_matmul_precision("highest"):
        output = jax.jit(network.apply)({"params": params}, *arguments("stage_1")[0])
    assert np.std(golden["stage_1/output"]) > 0.1
    np.testing.assert_allclose(output, golden["stage_1/output"], rtol=0, atol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("name", SETTINGS)
def test_output_and_gradients_equal_diffusers(name, golden):
    tensors = golden_tensors(golden, name)
    output, gradients = output_and_gradients(name, tensors)
    assert np.std(golden[f"{name}/output"]) > 0.1
    np.testing.assert_allclose(output, golden[f"{name}/output"], rtol=0, atol=1e-4)
    ours = np.stack([project(key, gradients[key]) for key in tensors])
    np.testing.assert_allclose(ours, golden[f"{name}/gradients"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", thorough_except(["stage_2_with_self_attention"], SETTINGS))
def test_export_undoes_import(name, golden):
    tensors = golden_tensors(golden, name)
    network = build(SETTINGS[name])
    params = import_deepfloyd_weights(tensors, shapes_of(network, name), len(network.channels))
    exported = export_deepfloyd_weights(flatten_dict(params, sep="/"), len(network.channels))
    assert exported.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(exported[key], tensor)


@pytest.mark.parametrize("name", SETTINGS)
def test_written_settings_describe_the_same_network(name):
    network, is_base = build(SETTINGS[name]), SETTINGS[name]["in_channels"] == 3
    written = write_settings(network, SETTINGS[name]["sample_size"], SETTINGS[name]["encoder_hid_dim"], is_base)
    assert build(json.loads(json.dumps(written))) == network
    for key in NEEDED - {"layers_per_block"}:
        assert written[key] == SETTINGS[name][key]


def test_weights_that_do_not_fit_are_named(golden):
    tensors = golden_tensors(golden, "stage_1")
    network = build(SETTINGS["stage_1"])
    shapes = shapes_of(network, "stage_1")
    renamed = {key.replace("conv_in.weight", "conv_inn.weight"): tensor for key, tensor in tensors.items()}
    with pytest.raises(UserError, match=r"conv_in\.weight.*conv_inn\.weight"):
        import_deepfloyd_weights(renamed, shapes, 3)
    with pytest.raises(UserError, match=r"class_embedding\.linear_1\.weight"):
        import_deepfloyd_weights(tensors | {"class_embedding.linear_1.weight": np.zeros(3)}, shapes, 3)
    key = "down_blocks.1.attentions.0.to_q.weight"
    with pytest.raises(UserError, match=rf"{key}.* \(64, 32\).*down_1_0_attention/query/kernel"):
        import_deepfloyd_weights(tensors | {key: tensors[key][:, :32]}, shapes, 3)


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (
            {"resnet_time_scale_shif": "scale_shift"},
            "'resnet_time_scale_shif'.*'resnet_time_scale_shift'",
        ),
        ({"_class_name": "UNet2DModel"}, "_class_name='UNet2DModel'"),
        ({"resnet_time_scale_shift": "default"}, "resnet_time_scale_shift='default'"),
        ({"norm_num_groups": 16}, "norm_num_groups=16"),
        ({"encoder_hid_dim_type": "image_proj"}, "encoder_hid_dim_type='image_proj'"),
        ({"down_block_types": ["DownBlock2D"] * 3}, "down_block_types"),
        ({"up_block_types": ["ResnetUpsampleBlock2D"] * 3}, "up_block_types"),
        ({"out_channels": 3}, "out_channels=3"),
        ({"class_embed_type": "timestep"}, "class_embed_type='timestep'.*in_channels=3"),
        ({"act_fn": "relu"}, "act_fn='relu'"),
        ({"layers_per_block": [1, 2]}, r"\b2\b.*\b3\b"),
        ({"attention_head_dim": [8, 8, 8]}, "attention_head_dim"),
    ],
)
def test_another_architecture_is_refused(change, facts):
    with pytest.raises(UserError, match=facts):
        read_network(SETTINGS["stage_1"] | change)


def test_the_keys_of_the_first_release_are_accepted():
    """Those that diffusers wrote in April 2023, at their defaults."""
    defaults = {
        "center_input_sample": False, "class_embed_type": None, "class_embeddings_concat": False, "conv_in_kernel": 3,
        "conv_out_kernel": 3, "downsample_padding": 1, "dual_cross_attention": False, "encoder_hid_dim_type": None,
        "flip_sin_to_cos": True, "freq_shift": 0, "mid_block_only_cross_attention": None, "mid_block_scale_factor": 1,
        "norm_eps": 1e-05, "norm_num_groups": 32, "num_class_embeds": None, "only_cross_attention": False,
        "projection_class_embeddings_input_dim": None, "resnet_out_scale_factor": 1.0, "resnet_skip_time_act": False,
        "time_cond_proj_dim": None, "time_embedding_act_fn": None, "time_embedding_dim": None,
        "time_embedding_type": "positional", "timestep_post_act": None, "upcast_attention": False,
        "use_linear_projection": False, "_diffusers_version": "0.16.0.dev0",
    }  # fmt: skip
    assert read_network(SETTINGS["stage_1"] | defaults) == read_network(SETTINGS["stage_1"])


def test_a_missing_key_is_named():
    settings = {key: value for key, value in SETTINGS["stage_1"].items() if key != "encoder_hid_dim"}
    with pytest.raises(UserError, match="encoder_hid_dim"):
        read_network(settings)


@pytest.mark.parametrize(
    ("width", "millions"), thorough_rows_except([(192, 400)], [(192, 400), (320, 900), (704, 4300)])
)
def test_stage_one_has_the_published_sizes(width, millions):
    """IF's own model zoo: IF-I-M 400M, IF-I-L 900M, IF-I-XL 4.3B."""
    settings = SETTINGS["stage_1"] | {
        "addition_embed_type_num_heads": 64,
        "attention_head_dim": 64,
        "block_out_channels": [width, 2 * width, 3 * width, 4 * width],
        "cross_attention_dim": 4 * width,
        "down_block_types": ["ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3],
        "encoder_hid_dim": 4096,
        "layers_per_block": 3,
        "sample_size": 64,
        "up_block_types": [*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"],
    }
    text = Text(jnp.zeros((1, 77, 4096)), jnp.ones((1, 77), bool))
    shapes = parameter_shapes(build(settings).init, jnp.zeros((1, 64, 64, 3)), jnp.zeros(1), Conditions(text=text))
    count = sum(int(np.prod(shape.shape)) for shape in shapes.values())
    assert count / 1e6 == pytest.approx(millions, rel=0.08)
