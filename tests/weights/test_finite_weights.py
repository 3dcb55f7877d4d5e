"""Weights with NaN or infinity are refused wherever they come from, by the name of the tensor."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from configs import own_images
from imagen_jax.cascade import checkpoint_export
from imagen_jax.cascade.experiment import read_model
from imagen_jax.cascade.stage import abstract_params, build_stage
from imagen_jax.encoders.encoder import load_text_encoder
from imagen_jax.encoders.inception_weights import convert
from imagen_jax.encoders.pretrained_clip import load_clip
from imagen_jax.errors import UserError
from imagen_jax.weight_formats.formats import import_stage
from imagen_jax.weights.named_tensors import NotFiniteError, require_finite
from imagen_jax.weights.places import place_sharded, place_whole
from tests.drawn_params import draw_params
from tests.reference.clip_folders import make_tensors as make_clip
from tests.reference.clip_folders import to_openai, write_clip_file, write_clip_folder
from tests.reference.deepfloyd_folders import write_stage
from tests.reference.inception_weights import random_tensors
from tests.reference.make_deepfloyd_reference import GOLDEN
from tests.reference.t5_folders import make_tensors as make_t5
from tests.reference.t5_folders import write_t5_folder, write_t5x_folder, write_tensors


def spoil(tensors, name, value):
    """Puts a value into the midst of a tensor."""
    tensors[name] = np.array(tensors[name])
    tensors[name].reshape(-1)[tensors[name].size // 2] = value
    return tensors


def read_t5(folder, value, dtype="float32"):
    name = "encoder.block.1.layer.1.DenseReluDense.wo.weight"
    write_tensors(write_t5_folder(folder), spoil(make_t5("narrow"), name, value))
    load_text_encoder("t5", folder=folder, dtype=dtype).encode(["red apple"])


def read_t5x(folder, value):
    name = "encoder.layers_1.attention.query.kernel"
    shape = make_t5("narrow")["encoder.block.1.layer.0.SelfAttention.q.weight"].T.shape
    write_t5x_folder(folder, changes={name: np.full(shape, value, np.float32)})
    load_text_encoder("t5", folder=folder, dtype="float32").encode(["red apple"])


def read_clip_folder(folder, value):
    load_clip(str(write_clip_folder(folder, spoil(make_clip(), "visual_projection.weight", value))), "")


def read_clip_file(folder, value):
    load_clip(str(write_clip_file(folder, spoil(to_openai(make_clip()), "text_projection", value))), "")


def read_inception(folder, value):
    convert(spoil(random_tensors(), "Mixed_5b.branch1x1.conv.weight", value))


def read_deepfloyd(folder, value):
    with np.load(GOLDEN) as golden:
        write_stage(folder / "stage", "stage_1", json.loads(str(golden["stage_1/shapes"])))
    file = folder / "stage" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(spoil(load_file(file), "conv_in.weight", value), file)
    import_stage("deepfloyd_if", folder / "stage", folder / "imported")


def read_export(folder, value):
    """Of an earlier version, without checksums; with them it is refused before."""
    config = own_images.get_config("base,smoke")
    params = draw_params(abstract_params(build_stage(config)))
    tensors = spoil(checkpoint_export.name_params(params), "conv_in/kernel", value)
    checkpoint_export.write_files(folder, config.to_dict(), tensors)
    checkpoint_export.read_params(folder, read_model(config))


CASES = {
    "T5": (read_t5, r"encoder\.block\.1\.layer\.1\.DenseReluDense\.wo\.weight"),
    "T5 in bfloat16": (
        lambda folder, value: read_t5(folder, value, "bfloat16"),
        r"encoder\.block\.1\.layer\.1\.DenseReluDense\.wo\.weight",
    ),
    "T5 of T5X": (read_t5x, r"target\.encoder\.layers_1\.attention\.query\.kernel"),
    "CLIP of Hugging Face": (read_clip_folder, r"visual_projection\.weight"),
    "CLIP of OpenAI": (read_clip_file, "text_projection"),
    "Inception": (read_inception, r"Mixed_5b\.branch1x1\.conv\.weight"),
    "DeepFloyd IF": (read_deepfloyd, r"conv_in\.weight"),
    "an export": (read_export, "conv_in/kernel"),
}


@pytest.mark.parametrize("value", [np.nan, pytest.param(np.inf, marks=pytest.mark.thorough)])
@pytest.mark.parametrize(("read", "name"), CASES.values(), ids=CASES)
def test_the_tensor_is_named(read, name, value, tmp_path):
    with pytest.raises(UserError, match=rf"{name} .*NaN"):
        read(tmp_path / "weights", value)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_number_of_many_is_found_wherever_it_is(dtype, value):
    array = np.zeros((3, 2**22 - 1), dtype)
    assert require_finite(array) is array
    for index in ((0, 0), (1, 2), (2, -1)):
        array[index] = value
        for each in (array, array.T):
            with pytest.raises(NotFiniteError):
                require_finite(each)
        array[index] = 1


@pytest.mark.parametrize("sharded", [False, True])
def test_on_devices_too(sharded):
    place = place_sharded(jax.make_mesh((8,), ("data",))) if sharded else place_whole
    array = np.ones((16, 24), np.float32)
    place("kernel", array)
    array[3, 20] = np.nan
    with pytest.raises(NotFiniteError):
        place("kernel", array)
