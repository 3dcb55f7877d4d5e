"""Prompts for zero-shot classification: the words of each class in templates.

    class "Food & Drink" -> words "food", "drink" … × templates "a drawing of {}" … -> prompts of the class

All templates here were fixed before anything was measured with them, as were the words in ``data.class_words``.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from imagen_jax.errors import UserError, lookup

SLOT = "{}"
"""What a template has in place of the class's word."""

OWN = "own"
"""Name of the templates that the user gives."""

EMOJI = (
    "{}",
    "an emoji of {}",
    "a drawing of {}",
    "a drawing of a {}",
    "a simple icon of {}",
)
"""For small drawings whose captions are short names."""

OPENAI_80 = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)
"""The templates for ImageNet of Radford et al. 2021, section 3.1.4, in the order of OpenAI's published notebook."""

OPENAI_7 = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""The seven of them that the same notebook found by forward selection."""

TEMPLATES: dict[str, tuple[str, ...]] = {
    "bare": (SLOT,),
    "emoji": EMOJI,
    "openai_7": OPENAI_7,
    "openai_80": OPENAI_80,
}
"""Sets of templates, by the values of ``--templates``."""


class ClassPrompts(NamedTuple):
    """The prompts of each class.

    Attributes:
        names: names of the classes.
        prompts: prompts of each class, at least one.
    """

    names: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]

    def list_distinct(self) -> list[str]:
        """Returns all prompts in order, each once."""
        return list(dict.fromkeys(prompt for prompts in self.prompts for prompt in prompts))


def fill_template(template: str, word: str) -> str:
    """Returns a template with each ``{}`` replaced by a word. Other braces stay as they are."""
    return template.replace(SLOT, word)


def choose_templates(name: str, own: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns the templates of the given name, or the user's own.

    Args:
        name: key of ``TEMPLATES``; without effect if there are own ones.
        own: the user's templates, each with ``{}`` in place of the class.

    Raises:
        UserError: the name is unknown, or an own template lacks ``{}`` or is repeated.
    """
    if not own:
        return lookup(TEMPLATES, name, "set of templates")
    for number, template in enumerate(own):
        if SLOT not in template:
            raise UserError(
                f"the template {template!r} lacks {SLOT}, the place of the class: write one, as in 'my {SLOT}'"
            )
        if template in own[:number]:
            raise UserError(f"the template {template!r} is given twice: leave one out")
    return tuple(own)


def make_prompts(words: Mapping[str, Sequence[str]], templates: Sequence[str]) -> ClassPrompts:
    """Makes the prompts of each class: each of its words in each template, and each prompt once.

    Args:
        words: words of each class, by the class's name; at least two classes.
        templates: at least one template with ``{}``.

    Raises:
        UserError: the classes can't be told apart, see ``check_words``.
    """
    check_words(words)
    prompts = [[fill_template(template, word) for word in own for template in templates] for own in words.values()]
    return ClassPrompts(tuple(words), tuple(tuple(dict.fromkeys(one)) for one in prompts))


def check_words(words: Mapping[str, Sequence[str]]) -> None:
    """Checks the words of classes. Upper and lower case are the same, as for CLIP's tokenizer.

    Raises:
        UserError: there are fewer than two classes, a class has no word or an empty one, a name or a word within a
            class is repeated, or two classes have the same words.
    """
    if len(words) < 2:
        given = f"only {next(iter(words))!r}" if words else "none"
        raise UserError(f"a classifier needs at least two classes, but there is {given}: add classes")
    names: dict[str, str] = {}
    sets: dict[frozenset[str], str] = {}
    for name, own in words.items():
        folded = [fold(word) for word in own]
        if not folded or not all(folded):
            raise UserError(f"the class {name!r} has no word or an empty one: write at least one word for it")
        repeated = next((word for number, word in enumerate(folded) if word in folded[:number]), None)
        if repeated is not None:
            raise UserError(f"the class {name!r} has the word {repeated!r} twice: leave one out")
        if fold(name) in names:
            raise UserError(f"the class {name!r} is given twice, also as {names[fold(name)]!r}: leave one out")
        if frozenset(folded) in sets:
            raise UserError(
                f"the classes {sets[frozenset(folded)]!r} and {name!r} have the same words, so a classifier can't "
                "separate them: give one of them another word"
            )
        names[fold(name)] = name
        sets[frozenset(folded)] = name


def fold(text: str) -> str:
    """Returns a text in lower case, with single spaces between its words."""
    return " ".join(text.casefold().split())
