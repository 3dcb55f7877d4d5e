"""Folders of pictures whose model shows in their colour, for tests of what raters compare."""

import numpy as np

from imagen_jax.cascade.image_files import encode_picture, file_name

RED, BLUE = (200, 30, 30), (30, 30, 200)
PROMPTS = ("a red apple", "<b>panda</b> 🐼", 'a pizza, with "everything"')


def write_picture(folder, prompt, index=0, colour=RED, form="png", size=16, **more):
    """Writes one as ``imagen_jax.sample`` does, which also says who drew it."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.broadcast_to(np.asarray(colour, np.uint8), (size, size, 3)).copy()
    # So that no two are the same.
    pixels[0, 0] = [len(prompt), index, size]
    said = {"prompt": prompt, "index": str(index), "stage_0": f"model {folder.name}"} | more
    file = folder / f"{file_name(prompt, 0, index)}.{form}"
    file.write_bytes(encode_picture(pixels, form, said))
    return file


def write_two_folders(root, prompts=PROMPTS, each=1, categories=()):
    """Red pictures in ``ours``, blue ones in ``theirs``."""
    for prompt in prompts:
        for index in range(each):
            write_picture(root / "ours", prompt, index, RED)
            write_picture(root / "theirs", prompt, index, BLUE)
    if categories:
        quoted = ['"' + prompt.replace('"', '""') + '"' for prompt in prompts]
        rows = [f"{prompt},{category}" for prompt, category in zip(quoted, categories, strict=True)]
        (root / "ours" / "prompts.csv").write_text("\n".join(["Prompts,Category", *rows]) + "\n")
    return root / "ours", root / "theirs"
