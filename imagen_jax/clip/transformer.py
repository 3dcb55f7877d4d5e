"""The transformer of CLIP's two towers: layers that normalise before each sub-layer (Radford et al. 2021, section 2.4).

    x += attention(norm(x));   x += perceptron(norm(x)),   layer by layer

Initialisation, as OpenAI's code does it for the text transformer. All kernels are normal with mean 0, and biases are 0:

    queries, keys, values     width^-1/2
    output of attention       width^-1/2 · (2 layers)^-1/2
    perceptron, first layer   (2 width)^-1/2
    perceptron, second layer  width^-1/2 · (2 layers)^-1/2

So the sum of all residual branches keeps its variance whatever the number of layers. OpenAI's code leaves the blocks of
the image transformer at PyTorch's defaults; here both towers start the same way.

Norms and softmax are computed in float32, everything else in the compute dtype. Parameters are float32.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from imagen_jax.array_types import DTYPES
from imagen_jax.errors import UserError, lookup
from imagen_jax.runtime.backend import computed_once
from imagen_jax.sharding.axes import TENSOR, constrain, gathering, present_mesh, with_logical_axes

States = Float[Array, "batch positions tower_width"]
Embeddings = Float[Array, "batch embedding"]

EPSILON = 1e-5
"""The term in the denominator of each LayerNorm, of OpenAI's, open_clip's and Hugging Face's CLIP."""

SINK = float(jnp.finfo(jnp.float32).min)
"""The score of a position that attention does not see."""

MakeBlock = Callable[..., nn.Module]
"""Makes a layer with a ``name`` in the current module, or with ``parent=None`` an unbound layer."""


def quick_gelu(x: jax.Array) -> jax.Array:
    """Returns ``x · sigmoid(1.702 x)``, OpenAI's approximation of GELU."""
    return x * nn.sigmoid(1.702 * x)


def exact_gelu(x: jax.Array) -> jax.Array:
    """Returns ``x · Φ(x)``, GELU with the exact error function."""
    return nn.gelu(x, approximate=False)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"gelu": exact_gelu, "quick_gelu": quick_gelu}

REMAT: dict[str, Callable[..., bool] | None] = {"none": None, "blocks": jax.checkpoint_policies.nothing_saveable}
"""none: the gradient recomputes nothing; blocks: it recomputes all but the inputs of layers."""

ZEROS: Any = nn.initializers.zeros_init()


@cache
def normal(deviation: float) -> Any:
    """Returns an initializer with this standard deviation, the same object for the same deviation."""
    return nn.initializers.normal(deviation)


class Norm(nn.LayerNorm):
    """LayerNorm in float32, which keeps the dtype of its input.

    It computes the variance in two passes, without loss of digits.
    """

    epsilon: float = EPSILON
    use_fast_variance: bool = False
    dtype: Any = jnp.float32

    def __call__(self, x: Any, *, mask: Any = None) -> Any:
        """Returns the normalised states."""
        return super().__call__(x, mask=mask).astype(x.dtype)


def dense(
    width: int,
    axes: tuple[str, str],
    deviation: float,
    *,
    dtype: DTypeLike,
    name: str | None = None,
    use_bias: bool = True,
) -> nn.Dense:
    """Returns a dense layer.

    Args:
        width: the number of outputs.
        axes: the names of the kernel's axes, see ``sharding.axes``.
        deviation: the standard deviation of a new kernel.
        dtype: the compute dtype.
        name: the name of the layer; None in ``setup``.
        use_bias: whether a bias is added.
    """
    return nn.Dense(
        width,
        use_bias=use_bias,
        kernel_init=with_logical_axes(normal(deviation), axes),
        promote_dtype=gathering(axes),
        dtype=dtype,
        name=name,
    )


def projection(
    embedding: int, width: int, dtype: DTypeLike, name: str | None = None, use_bias: bool = False
) -> nn.Dense:
    """Returns the linear map from a tower's last state, of size ``width``, to the embedding."""
    return dense(embedding, ("channels", "channels"), width**-0.5, dtype=dtype, name=name, use_bias=use_bias)


class SelfAttention(nn.Module):
    """Multi-head self-attention.

    Attributes:
        heads: the number of heads; a divisor of the width.
        layers: the number of layers of the transformer, for the initialisation.
        causal: whether a position attends only to itself and earlier ones.
        dtype: the compute dtype, a key of ``array_types.DTYPES``.
    """

    heads: int
    layers: int
    causal: bool
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: States) -> States:
        """Returns the attention output of each position."""
        batch, positions, width = x.shape
        dtype = DTYPES[self.dtype]

        def project(name: str) -> Float[Array, "batch heads positions head_width"]:
            projected = dense(width, ("channels", "heads"), width**-0.5, dtype=dtype, name=name)(x)
            by_head = projected.reshape(batch, positions, self.heads, width // self.heads)
            return constrain(by_head, "batch", "places", "heads", "head_channels").swapaxes(1, 2)

        check_tensor_axis(self.heads)
        gathered = attend(project("query"), project("key"), project("value"), self.causal)
        joined = gathered.swapaxes(1, 2).reshape(x.shape)
        deviation = width**-0.5 * (2 * self.layers) ** -0.5
        return dense(width, ("heads", "channels"), deviation, dtype=dtype, name="output")(joined)


def attend(
    query: Float[Array, "batch heads queries head_width"],
    key: Float[Array, "batch heads positions head_width"],
    value: Float[Array, "batch heads positions head_width"],
    causal: bool = False,
) -> Float[Array, "batch heads queries head_width"]:
    """Returns scaled dot-product attention (Vaswani et al. 2017, equation 1), with the softmax in float32."""
    scores = jnp.matmul(query / query.shape[-1] ** 0.5, key.mT, preferred_element_type=jnp.float32)
    if causal:
        queries, keys = scores.shape[-2:]
        seen = jnp.tri(queries, keys, dtype=bool)
        scores = jnp.where(seen[None, None], scores, SINK)
    return jax.nn.softmax(scores).astype(value.dtype) @ value


def check_tensor_axis(heads: int) -> None:
    """Checks that the mesh can shard attention by heads.

    Raises:
        UserError: the size of the mesh axis ``tensor`` does not divide the number of heads.
    """
    mesh = present_mesh()
    if mesh is not None and heads % mesh.shape[TENSOR]:
        raise UserError(f"config.mesh.tensor={mesh.shape[TENSOR]} does not divide {heads} heads: choose a divisor")


class Block(nn.Module):
    """A layer of the transformer: self-attention, then a perceptron, both with a residual connection.

    Attributes:
        heads: the number of attention heads; a divisor of the width.
        hidden: the width inside the perceptron.
        layers: the number of layers of the transformer, for the initialisation.
        activation: a key of ``ACTIVATIONS``.
        causal: whether a position attends only to itself and earlier ones.
        dtype: the compute dtype, a key of ``array_types.DTYPES``.
    """

    heads: int
    hidden: int
    layers: int
    activation: str
    causal: bool
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: States) -> States:
        """Returns the next layer's input."""
        dtype, width = DTYPES[self.dtype], x.shape[-1]
        attention = SelfAttention(self.heads, self.layers, self.causal, self.dtype, name="attention")
        x = computed_once(constrain(x + attention(Norm(name="attention_norm")(x)), "batch", "places", "channels"))
        expand = dense(self.hidden, ("channels", "hidden"), (2 * width) ** -0.5, dtype=dtype, name="expand")
        expanded = constrain(expand(Norm(name="perceptron_norm")(x)), "batch", "places", "hidden")
        deviation = width**-0.5 * (2 * self.layers) ** -0.5
        contract = dense(width, ("hidden", "channels"), deviation, dtype=dtype, name="contract")
        x = x + contract(ACTIVATIONS[self.activation](expanded))
        return computed_once(constrain(x, "batch", "places", "channels"))


def block_class(remat: str) -> type[nn.Module]:
    """Returns ``Block``, wrapped in ``nn.remat`` as a key of ``REMAT`` says. Its parameters have the same names."""
    policy = REMAT[remat]
    return Block if policy is None else nn.remat(Block, policy=policy)


def run_scanned(owner: nn.Module, block: nn.Module, names: Sequence[str], x: States) -> States:
    """Runs equal layers as one loop of the program, which makes the program smaller.

    The parameters remain those of the single layers, so checkpoints, shardings and exports do not change. They are
    stacked where they are used. A loop stores all that its gradient needs, so use it with ``remat="blocks"``.

    Args:
        owner: the module that has the layers.
        block: an unbound layer.
        names: the names of the layers, in order.
        x: the input of the first layer.
    """
    params = [owner.variables["params"][name] for name in names]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)

    def run_one(x: jax.Array, params: Any) -> tuple[Any, None]:
        return block.apply({"params": params}, x), None

    x, _ = jax.lax.scan(run_one, x, stacked)
    return x


def check_transformer(tower: Any) -> None:
    """Checks the fields that both transformers have: sizes, and names of choices.

    Raises:
        UserError: a size is not positive, the heads do not divide the width, or a choice is unknown.
    """
    for name in ("width", "layers", "heads", "hidden", "embedding"):
        if getattr(tower, name) < 1:
            raise UserError(f"a tower has {name}={getattr(tower, name)}: give a positive number")
    if tower.width % tower.heads:
        raise UserError(f"{tower.heads} heads do not divide width={tower.width}: choose a divisor")
    lookup(ACTIVATIONS, tower.activation, "activation")
    lookup(REMAT, tower.remat, "remat")
    lookup(DTYPES, tower.dtype, "dtype")
