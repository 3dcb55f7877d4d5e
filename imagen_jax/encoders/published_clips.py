"""OpenAI's published CLIPs: their descriptions and files (github.com/openai/CLIP)."""

from typing import Any

from imagen_jax.clip.description import Description, make_description
from imagen_jax.weights.known_files import KnownFile


def transformer(width: int, layers: int) -> dict[str, Any]:
    """Returns the fields of OpenAI's transformers: heads of 64 and a perceptron of four times the width."""
    sizes = {"width": width, "layers": layers, "heads": width // 64, "hidden": 4 * width}
    return {**sizes, "activation": "quick_gelu"}


def text_tower(width: int) -> dict[str, Any]:
    """Returns OpenAI's text tower."""
    return {"name": "transformer", "vocabulary": 49408, "context": 77, "end": 49407, **transformer(width, 12)}


def describe_vit(width: int, layers: int, resolution: int, patch: int, text: int, embedding: int) -> Description:
    """Returns the description of a CLIP with a vision transformer. ``text`` is the width of the text tower."""
    image = {"name": "vision_transformer", "resolution": resolution, "patch": patch, **transformer(width, layers)}
    return make_description(image, text_tower(text), embedding)


def describe_resnet(layers: list[int], width: int, resolution: int, text: int, embedding: int) -> Description:
    """Returns the description of a CLIP with a residual network. ``text`` is the width of the text tower."""
    image = {"name": "resnet", "resolution": resolution, "layers": layers, "width": width, "heads": width // 2}
    return make_description(image, text_tower(text), embedding)


SIZES = {
    "ViT-B/32": describe_vit(768, 12, resolution=224, patch=32, text=512, embedding=512),
    "ViT-B/16": describe_vit(768, 12, resolution=224, patch=16, text=512, embedding=512),
    "ViT-L/14": describe_vit(1024, 24, resolution=224, patch=14, text=768, embedding=768),
    "ViT-L/14@336px": describe_vit(1024, 24, resolution=336, patch=14, text=768, embedding=768),
    "RN50": describe_resnet([3, 4, 6, 3], 64, resolution=224, text=512, embedding=1024),
    "RN101": describe_resnet([3, 4, 23, 3], 64, resolution=224, text=512, embedding=512),
    "RN50x4": describe_resnet([4, 6, 10, 6], 80, resolution=288, text=640, embedding=640),
    "RN50x16": describe_resnet([6, 8, 18, 8], 96, resolution=384, text=768, embedding=768),
    "RN50x64": describe_resnet([3, 15, 36, 10], 128, resolution=448, text=1024, embedding=1024),
}
SHA256 = {
    "ViT-B/32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "ViT-B/16": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    "ViT-L/14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    "ViT-L/14@336px": "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
    "RN50": "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
    "RN101": "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599",
    "RN50x4": "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd",
    "RN50x16": "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa",
    "RN50x64": "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c",
}


def published_file(model: str) -> KnownFile:
    """Returns OpenAI's file of a model in ``SIZES``. Its URL contains the checksum."""
    name = f"{model.replace('/', '-').replace('@', '-')}.pt"
    url = f"https://openaipublic.azureedge.net/clip/models/{SHA256[model]}/{name}"
    return KnownFile(f"CLIP {model}", name, url, SHA256[model])


def find_published(description: Description) -> str:
    """Returns the name of the published model with the same towers; "" if there is none."""
    return next((name for name, published in SIZES.items() if published.same_network(description)), "")
