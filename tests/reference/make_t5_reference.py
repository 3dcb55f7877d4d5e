"""Writes tests/golden/t5_reference.npz: what transformers' T5EncoderModel makes of small seeded models.

Run it from the repository's root, in any environment with torch and transformers::

    pip install torch transformers safetensors sentencepiece
    python -m tests.reference.make_t5_reference
"""

import tempfile
from pathlib import Path

import numpy as np

from tests.reference.t5_folders import CONFIGS, settings_of, write_t5_folder

GOLDEN = Path(__file__).parents[1] / "golden" / "t5_reference.npz"

LENGTHS = {"unpadded": (12, 12), "padded": (17, 5, 1)}
MAX_OFFSET = 300


def make_ids(name: str, lengths: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Seeded token ids of the given lengths, padded with 0 to the longest, and their mask."""
    generator = np.random.default_rng(1)
    mask = np.arange(max(lengths))[None, :] < np.asarray(lengths)[:, None]
    ids = generator.integers(1, settings_of(name)["vocab_size"], mask.shape)
    return np.where(mask, ids, 0).astype(np.int32), mask


def compute_hidden(folder: Path, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns transformers' last hidden states, in float32."""
    import torch
    from transformers import T5EncoderModel

    model = T5EncoderModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        tokens, attended = torch.from_numpy(ids).long(), torch.from_numpy(mask).long()
        return model(input_ids=tokens, attention_mask=attended).last_hidden_state.numpy()


def compute_buckets(buckets: int) -> np.ndarray:
    """Returns transformers' bucket of each offset from -MAX_OFFSET to MAX_OFFSET."""
    import torch
    from transformers.models.t5.modeling_t5 import T5Attention

    offsets = torch.arange(-MAX_OFFSET, MAX_OFFSET + 1)
    return T5Attention._relative_position_bucket(offsets, True, buckets, 128).numpy().astype(np.int16)


def main() -> None:
    """Computes the reference and writes the golden file."""
    arrays = {f"buckets/{buckets}": compute_buckets(buckets) for buckets in (16, 32)}
    with tempfile.TemporaryDirectory() as folder:
        for name in CONFIGS:
            model = write_t5_folder(Path(folder) / name, name)
            for kind, lengths in LENGTHS.items():
                ids, mask = make_ids(name, lengths)
                hidden = compute_hidden(model, ids, mask)
                arrays[f"{name}/{kind}"] = np.where(mask[..., None], hidden, 0)
    np.savez_compressed(GOLDEN, **arrays)
    print(f"wrote {GOLDEN} ({GOLDEN.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
