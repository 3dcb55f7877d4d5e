"""A stage that is told a class and no text, as ADM is (Dhariwal & Nichol 2021), from the bundled drawings.

Its prompts are names of classes: ``load_cascade(workdir).sample("Food & Drink")``.
"""

from ml_collections import ConfigDict


def with_classes(config: ConfigDict) -> ConfigDict:
    """Turns the config of a base for OpenMoji into one of Unicode's nine groups instead of captions."""
    config.stage.update({"text": False, "classes": "openmoji_groups"})
    # A tenth of the classes is dropped, as captions are, so that guidance works.
    config.training.caption_dropout = 0.1
    config.preview.prompts = ()
    return config
