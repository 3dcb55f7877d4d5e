"""Orders that vary an image, or move it towards a text, by unCLIP's image embedding.

order with an image -> z_i by the decoder's CLIP, x_T by inversion -> a request -> the cascade without its prior
"""

import functools
from typing import Any

from imagen_jax.cascade.cascade import Cascade
from imagen_jax.cascade.manipulations import (
    Latents,
    embed_image,
    encode,
    load_clip_of,
    make_text_difference,
    make_variations,
    text_difference,
    with_decoder,
    without_prior,
)
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.data.pixels import decode_pixels
from imagen_jax.encoders.pretrained_clip import Clip
from imagen_jax.web.orders import TEXT_DIFFERENCE, Order, decode_sent


class Manipulator:
    """Makes the requests of orders that manipulate an image.

    Args:
        cascade: the page's cascade, with or without a prior.
    """

    def __init__(self, cascade: Cascade) -> None:
        self._cascade = cascade

    @functools.cached_property
    def decoding(self) -> Cascade:
        """The cascade without its prior; the cascade itself if it has none."""
        return without_prior(self._cascade)

    @functools.cached_property
    def _clip(self) -> Clip:
        return load_clip_of(self.decoding)

    def plan(self, order: Order) -> tuple[Cascade, ImageRequest]:
        """Returns the cascade without its prior, with the settings of an order, and the order's request.

        Raises:
            UserError: the image can't be read, the decoder's config names no CLIP, or both texts are the same.
        """
        skipped = len(self._cascade.trained) - len(self.decoding.trained)
        settings: dict[str, Any] = {name: values[skipped:] for name, values in order.settings.items()}
        cascade = self.decoding.adjusted(**settings)
        image = decode_sent(order.image, "image", decode_pixels)
        if order.how == TEXT_DIFFERENCE:
            # Before the inversion, which takes longer.
            difference = text_difference(self._clip, order.from_text, order.prompt)
            latents = encode(cascade, self._clip, image)
            (request,) = make_text_difference(latents, difference, [order.share])
            return with_decoder(cascade, sampler="ddim", eta=0.0), request
        latents = Latents(embed_image(cascade, self._clip, image), None)
        return cascade, make_variations(latents, 1, order.prompt, fresh_noise=True)[0]
