"""Opens the data of a run: one prepared data set or several, and their sampling weights.

data.source, data.options -> folders of data sets, rendered now or found -> weights -> one source of batches
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from imagen_jax.data.batches import Mixture
from imagen_jax.data.preparation.builder import PREPARED, check_no_fold, check_prepared, prepare_data
from imagen_jax.data.splits import Split
from imagen_jax.data.stored_images import identify, identify_rendered, load_split
from imagen_jax.errors import UserError, check_names
from imagen_jax.storage.paths import Path, split_places


class DataSets(NamedTuple):
    """Prepared data sets.

    Attributes:
        folders: the folder of each data set.
        weights: relative sampling frequency of each data set; empty: proportional to their numbers of examples.
        name: identifier of the data sets, their contents and their weights.
        fingerprint: identifier that does not depend on where the folders are or when their files were copied. A run can
            only resume with the same fingerprint.
    """

    folders: tuple[Path, ...]
    weights: tuple[float, ...]
    name: str
    fingerprint: str

    def load(self, split: Split) -> Mixture:
        """Opens one split of all data sets.

        Raises:
            UserError: a data set has no such split.
        """
        return Mixture(tuple(load_split(folder, split) for folder in self.folders), self.weights)


def open_data_sets(
    source: str,
    resolution: int,
    data_dir: str | Path,
    validation_fraction: float,
    options: dict[str, Any],
    weights: Sequence[float | int] = (),
    *,
    fold: int | None = None,
    folds: int = 5,
) -> DataSets:
    """Finds the data sets of a run, or renders the one of a small source.

    Args:
        source: a source that is rendered now, or ``PREPARED``, whose option ``folder`` may name several folders,
            separated by commas.
        resolution: height and width of the run's images, see ``prepare_data``.
        data_dir: folder of rendered data sets, see ``prepare_data``.
        validation_fraction: expected fraction of validation concepts, see ``prepare_data``.
        options: options of the source.
        weights: one weight for each folder; empty: proportional to the numbers of examples.
        fold: fold that is the validation split, see ``prepare_data``; None to use ``validation_fraction``.
        folds: number of folds.

    Raises:
        UserError: ``prepare_data`` raises it, a fold is chosen for prepared data, or the number of weights is not that
            of the folders.
    """
    folders: tuple[Path, ...]
    if source != PREPARED:
        folders = (prepare_data(source, resolution, data_dir, validation_fraction, fold=fold, folds=folds, **options),)
    else:
        check_names(options, ["folder"], f"option of data source {PREPARED!r}:")
        check_no_fold(fold)
        named = str(options.get("folder", ""))
        folders = tuple(check_prepared(resolution, folder=one) for one in split_places(named))
    if weights and len(weights) != len(folders):
        raise UserError(
            f"there are {len(weights)} data.weights for {len(folders)} data set(s): give one for each folder, or none"
        )
    # The folder name of a rendered data set contains a hash of its contents; users name the folders of prepared ones.
    name = "+".join(identify(folder) if source == PREPARED else folder.name for folder in folders)
    if weights and len(folders) > 1:
        name += " by " + ":".join(f"{weight:g}" for weight in weights)
    fingerprint = name if source == PREPARED else identify_rendered(folders[0])
    return DataSets(folders, tuple(map(float, weights)) if len(folders) > 1 else (), name, fingerprint)
