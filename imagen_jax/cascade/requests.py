"""Requests to a cascade: one ``ImageRequest`` per image.

prompts, number of samples of each -> one request per image, with its index among those of its prompt
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from imagen_jax.errors import UserError, lookup, names_its_arguments
from imagen_jax.runtime.seeds import check_seed

CONDITIONINGS = {
    "prior": "the image embedding that the prior draws",
    "text_embedding": "the caption's embedding in the place of an image embedding",
    "caption": "no image embedding, the caption alone",
    "image": "the embedding of an image, which the request's vector is",
}
"""What a decoder that takes image embeddings can be told, as in figure 8 of Ramesh et al. 2022."""


@dataclass(frozen=True)
class ImageRequest:
    """A request for one image.

    Attributes:
        prompt: the prompt.
        index: index among the images of the same prompt, from 0.
        to_prompt: second prompt to interpolate to; None to keep ``prompt``.
        to_seed: second seed to interpolate the noise to; None to keep the first seed.
        share: position of the interpolation, from 0 (``prompt`` and first seed) to 1.
        conditioning: a key of ``CONDITIONINGS``, for a cascade with a decoder; "" for "prior" if there is a prior.
        vector: the image embedding that the decoder is told, ``(d,)``, a vector of its ``EmbeddingSpace``; None for
            what ``conditioning`` says. With the conditioning "image" it is that of an image, and with "prior" one that
            is drawn already.
        start: the noise from which the first stage of images starts, ``(height, width, channels)``; None for that of
            the seed.
    """

    prompt: str
    index: int = 0
    to_prompt: str | None = None
    to_seed: int | None = None
    share: float = 0.0
    conditioning: str = ""
    vector: Any = field(default=None, compare=False, repr=False)
    start: Any = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.conditioning:
            lookup(CONDITIONINGS, self.conditioning, "conditioning")
            if self.vector is not None and self.conditioning not in ("image", "prior"):
                raise UserError(
                    f"a request with a vector has no conditioning={self.conditioning!r}: leave one of them out"
                )
        if self.index < 0 or not 0.0 <= self.share <= 1.0:
            raise UserError(
                f"index={self.index} and share={self.share} of an image: the index must be at least 0, and the share "
                "must be between 0 and 1"
            )
        if self.to_seed is not None:
            check_seed(self.to_seed, "to_seed")

    @property
    def is_between(self) -> bool:
        """Whether the image interpolates to a second prompt or seed."""
        return self.to_prompt is not None or self.to_seed is not None

    @property
    def label(self) -> str:
        """The image's label in a grid."""
        if not self.is_between:
            return f"{self.prompt} ({self.conditioning})" if self.conditioning else self.prompt
        to = self.to_prompt if self.to_prompt is not None else f"seed {self.to_seed}"
        return f"{self.prompt}, {self.share:.0%} {to}"


ImageRequest.__init__ = names_its_arguments(ImageRequest.__init__)  # type: ignore[method-assign]


def requests_of(prompts: str | Sequence[str], samples: int = 1) -> list[ImageRequest]:
    """Makes ``samples`` requests for each prompt. A repeated prompt continues its indices, so its images differ."""
    seen: Counter[str] = Counter()
    prompts = [prompts] if isinstance(prompts, str) else prompts
    requests = []
    for prompt in prompts:
        requests += [ImageRequest(prompt, index) for index in range(seen[prompt], seen[prompt] + samples)]
        seen[prompt] += samples
    return requests
