"""What a run trains on: one prepared data set or several, and how often each is read.

data.source, data.options -> folders of data sets, drawn now or found -> weights -> one source to make batches of
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from imagen_jax.data.batches import Mixture
from imagen_jax.data.preparation.builder import PREPARED, check_prepared, prepare_data
from imagen_jax.data.splits import Split
from imagen_jax.data.stored_images import identify, identify_drawn, load_split
from imagen_jax.errors import UserError, check_names
from imagen_jax.storage.paths import Path, split_places


class DataSets(NamedTuple):
    """Prepared data sets.

    Attributes:
        folders: of each.
        weights: how often each is read, in any unit; empty: by their numbers of examples, as if they were one.
        name: tells them, and what is in them, from others.
        fingerprint: likewise, wherever they lie and whenever their files were copied: what a run may be continued on.
    """

    folders: tuple[Path, ...]
    weights: tuple[float, ...]
    name: str
    fingerprint: str

    def load(self, split: Split) -> Mixture:
        """Opens one split of all of them.

        Raises:
            UserError: one has no such split.
        """
        return Mixture(tuple(load_split(folder, split) for folder in self.folders), self.weights)


def open_data_sets(
    source: str,
    resolution: int,
    data_dir: str | Path,
    validation_fraction: float,
    options: dict[str, Any],
    weights: Sequence[float | int] = (),
) -> DataSets:
    """Finds what a run trains on, or draws it where its source is drawn.

    Args:
        source: a source that is drawn now, or ``PREPARED``, whose option ``folder`` may then name several folders, with
            commas between them.
        resolution: height and width that the run wants, see ``prepare_data``.
        data_dir: see ``prepare_data``.
        validation_fraction: see ``prepare_data``.
        options: of the source.
        weights: one for each folder, where there are several; none: by their numbers of examples.

    Raises:
        UserError: what ``prepare_data`` raises, or weights that are no match for the folders.
    """
    folders: tuple[Path, ...]
    if source != PREPARED:
        folders = (prepare_data(source, resolution, data_dir, validation_fraction, **options),)
    else:
        check_names(options, ["folder"], f"option of data source {PREPARED!r}:")
        named = str(options.get("folder", ""))
        folders = tuple(check_prepared(resolution, folder=one) for one in split_places(named))
    if weights and len(weights) != len(folders):
        raise UserError(
            f"there are {len(weights)} data.weights for {len(folders)} data set(s): give one for each folder, or none"
        )
    # Names of folders that are drawn hold a hash of what is in them; those of prepared ones, users give.
    name = "+".join(identify(folder) if source == PREPARED else folder.name for folder in folders)
    if weights and len(folders) > 1:
        name += " by " + ":".join(f"{weight:g}" for weight in weights)
    fingerprint = name if source == PREPARED else identify_drawn(folders[0])
    return DataSets(folders, tuple(map(float, weights)) if len(folders) > 1 else (), name, fingerprint)
