"""A COCO-shaped tree of validation images: the names, the annotations and the JPEGs that cocodataset.org gives."""

import json

import numpy as np
from PIL import Image


def write_coco(folder, count, side=40, seed=0):
    """Random patches of colour, each with two captions; every third is not square."""
    generator = np.random.default_rng(seed)
    images, annotations = [], []
    validation = folder / "val2014"
    validation.mkdir(parents=True)
    for number in range(1, count + 1):
        name = f"COCO_val2014_{number:012d}.jpg"
        patches = generator.integers(0, 256, (4, 4 if number % 3 else 5, 3), dtype=np.uint8)
        Image.fromarray(np.kron(patches, np.ones((side // 4, side // 4, 1), np.uint8))).save(
            validation / name, quality=95
        )
        images.append({"id": number, "file_name": name, "license": 1})
        for which, word in enumerate(("patches", "colours")):
            annotations.append({"id": 2 * number + which, "image_id": number, "caption": f"{word} number {number}"})
    (folder / "annotations").mkdir()
    content = {"images": images, "annotations": annotations, "licenses": [{"id": 1, "url": "none"}]}
    (folder / "annotations" / "captions_val2014.json").write_text(json.dumps(content))
    return folder
