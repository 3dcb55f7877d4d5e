r"""The contrastive losses of CLIP and SigLIP, on the embeddings of a whole batch.

Of N pairs with embeddings :math:`x_i` of images and :math:`y_j` of captions, all of length 1, the logits are
:math:`\ell_{ij} = e^t\, x_i \cdot y_j`.

- **softmax** (Radford et al. 2021, arXiv 2103.00020, section 2.3 and figure 3): each image chooses among all captions,
  and each caption among all images,

  .. math:: L = -\frac{1}{2N} \sum_i \Big( \log \frac{e^{\ell_{ii}}}{\sum_j e^{\ell_{ij}}}
            + \log \frac{e^{\ell_{ii}}}{\sum_j e^{\ell_{ji}}} \Big)

- **sigmoid** (Zhai et al. 2023, arXiv 2303.15343, equation 1): each of the N² pairs is right or wrong by itself,

  .. math:: L = -\frac{1}{N} \sum_{ij} \log \sigma\big( z_{ij} (\ell_{ij} + b) \big), \quad z_{ii} = 1, z_{ij} = -1

The losses take global arrays. The compiler shards the logits by their rows, so each device computes those of its own
images with all captions, and no device has an N×N array. All is float32: at :math:`e^t = 100`, bfloat16 would lose the
differences between logits.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from imagen_jax.array_types import Scalar
from imagen_jax.sharding.axes import constrain

Embedded = Float[Array, "examples embedding"]
Groups = Int[Array, " examples"]
Logits = Float[Array, "images captions"]

FIRST_SCALE = 1 / 0.07
"""Initial factor of the cosines (section 2.5)."""

MAX_SCALE = 100.0
"""Max factor of the cosines (section 2.5)."""

SIGMOID_FIRST_SCALE, SIGMOID_FIRST_BIAS = 10.0, -10.0
"""Initial factor and bias of the sigmoid loss (Zhai et al. 2023, section 3.2)."""

MIN_LENGTH = 1e-12


class Embeddings(NamedTuple):
    """The embeddings of a batch of pairs, of any length; a row of one belongs to that row of the other.

    Attributes:
        images: ``(examples, embedding)``.
        captions: ``(examples, embedding)``.
    """

    images: Embedded
    captions: Embedded


class Temperature(NamedTuple):
    """The learned scalars of a loss.

    Attributes:
        log_scale: logarithm t of the factor of the cosines.
        bias: b of the sigmoid loss; None for softmax.
    """

    log_scale: Scalar
    bias: Scalar | None = None


class Contrast(NamedTuple):
    """A loss and its metrics.

    Attributes:
        loss: the mean over the batch.
        metrics: ``recall_of_captions``, the fraction of images whose own caption has the highest logit of the batch;
            ``recall_of_images``, the fraction of captions whose own image has; ``logit_scale``, the factor of the
            cosines.
    """

    loss: Scalar
    metrics: dict[str, Scalar]


Loss = Callable[[Embeddings, Temperature, Groups | None], Contrast]


def unit(vectors: Embedded) -> Embedded:
    """Returns vectors of length 1 with the same directions, float32. Zeros stay zeros."""
    vectors = vectors.astype(jnp.float32)
    length = jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(vectors), axis=-1, keepdims=True), MIN_LENGTH**2))
    return vectors / length


def cosines(embeddings: Embeddings) -> tuple[Logits, Float[Array, " examples"]]:
    """Returns the cosines of all images with all captions, sharded by rows, and those of the pairs themselves."""
    images, captions = unit(embeddings.images), unit(embeddings.captions)
    of_all = jnp.einsum("id,jd->ij", images, captions, precision="highest")
    # Not the diagonal, which the compiler would gather from the shards.
    return constrain(of_all, "batch", "negatives"), jnp.sum(images * captions, axis=-1)


def equal_elsewhere(groups: Groups) -> Bool[Array, "images captions"]:
    """Returns which images and captions of different pairs are in the same group, and so are no negatives."""
    places = jnp.arange(len(groups))
    alike = groups[:, None] == groups[None, :]
    return constrain(alike & (places[:, None] != places[None, :]), "batch", "negatives")


def softmax_loss(embeddings: Embeddings, temperature: Temperature, groups: Groups | None = None) -> Contrast:
    """Computes the symmetric cross-entropy of CLIP.

    Args:
        embeddings: the embeddings of the whole batch.
        temperature: the learned factor; its bias is not used.
        groups: a number for each pair. Pairs with equal numbers, such as those of equal captions, are not each other's
            negatives. None counts every other pair as a negative, as the paper does.
    """
    scale = jnp.exp(temperature.log_scale.astype(jnp.float32))
    of_all, of_pairs = cosines(embeddings)
    logits, own = scale * of_all, scale * of_pairs
    if groups is not None:
        logits = jnp.where(equal_elsewhere(groups), -jnp.inf, logits)
    losses = (jax.nn.logsumexp(logits, axis=axis) - own for axis in (1, 0))
    return Contrast(sum(map(jnp.mean, losses), jnp.zeros(())) / 2, describe(logits, own, scale))


def sigmoid_loss(embeddings: Embeddings, temperature: Temperature, groups: Groups | None = None) -> Contrast:
    """Computes the loss of SigLIP. The arguments are those of ``softmax_loss``; the temperature must have a bias."""
    assert temperature.bias is not None, "the sigmoid loss has a bias"
    scale, bias = jnp.exp(temperature.log_scale.astype(jnp.float32)), temperature.bias.astype(jnp.float32)
    of_all, of_pairs = cosines(embeddings)
    logits, own = scale * of_all + bias, scale * of_pairs + bias
    as_negatives = jax.nn.softplus(logits)
    if groups is not None:
        as_negatives = jnp.where(equal_elsewhere(groups), 0.0, as_negatives)
        logits = jnp.where(equal_elsewhere(groups), -jnp.inf, logits)
    # The sum has each pair itself as a negative too: log σ(l) instead of log σ(-l) differs by l.
    loss = (jnp.sum(as_negatives) - jnp.sum(own)) / len(own)
    return Contrast(loss, describe(logits, own, scale))


def describe(logits: Logits, own: Float[Array, " examples"], scale: Scalar) -> dict[str, Scalar]:
    """Returns the metrics of ``Contrast``."""
    # The two products round differently, so an image's own logit may be a little below the same logit in the matrix.
    own = own + 1e-4 * scale
    return {
        "recall_of_captions": jnp.mean(own >= logits.max(axis=1), dtype=jnp.float32),
        "recall_of_images": jnp.mean(own >= logits.max(axis=0), dtype=jnp.float32),
        "logit_scale": scale,
    }


LOSSES: dict[str, Loss] = {"softmax": softmax_loss, "sigmoid": sigmoid_loss}
"""Values of ``clip.loss``."""
