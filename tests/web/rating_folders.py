"""Folders of images whose colour shows their model, for tests of ratings."""

import numpy as np

from imagen_jax.cascade.image_files import encode_picture, file_name

RED, BLUE = (200, 30, 30), (30, 30, 200)
PROMPTS = ("a red apple", "<b>panda</b> 🐼", 'a pizza, with "everything"')


def write_image(folder, prompt, index=0, colour=RED, form="png", size=16, **more):
    """Writes an image as ``imagen_jax.sample`` does, with its model in the metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.broadcast_to(np.asarray(colour, np.uint8), (size, size, 3)).copy()
    # So that no two are the same.
    pixels[0, 0] = [len(prompt), index, size]
    metadata = {"prompt": prompt, "index": str(index), "stage_0": f"model {folder.name}"} | more
    file = folder / f"{file_name(prompt, 0, index)}.{form}"
    file.write_bytes(encode_picture(pixels, form, metadata))
    return file


def write_two_folders(root, prompts=PROMPTS, each=1, categories=()):
    """Red images in ``ours``, blue ones in ``theirs``."""
    for prompt in prompts:
        for index in range(each):
            write_image(root / "ours", prompt, index, RED)
            write_image(root / "theirs", prompt, index, BLUE)
    if categories:
        quoted = ['"' + prompt.replace('"', '""') + '"' for prompt in prompts]
        rows = [f"{prompt},{category}" for prompt, category in zip(quoted, categories, strict=True)]
        (root / "ours" / "prompts.csv").write_text("\n".join(["Prompts,Category", *rows]) + "\n")
    return root / "ours", root / "theirs"
