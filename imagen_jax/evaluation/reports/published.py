"""Published FID-30K numbers on COCO, and the place of our own number among them.

The first two groups are table 1 of the Imagen paper (Saharia et al. 2022), in its order and as it has been shown since.
The third has numbers that others published later, of systems with a similar design. All use 30,000 captions of COCO
2014's validation set at 256 px. FID is the Fréchet distance of Inception's features only. A number of another network,
or of other images, is printed beside the column and never in it.
"""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

TITLE = "FID-30K on COCO"
COLUMN = "COCO FID ↓"
TRAINED = "Trained on COCO"
ZERO_SHOT = "Not trained on COCO"
LATER = "Not trained on COCO, published since"

CAPTIONS = 30_000

PAPER = "Saharia et al. 2022, table 1"
DEEPFLOYD = "DeepFloyd IF, model cards of 2023"
KARLO = "Karlo v1 alpha, its README of 2022"
UNPUBLISHED = "guidance and steps are unpublished"


class Published(NamedTuple):
    """A row with a published number.

    Attributes:
        group: the heading above the row.
        name: the name of the system, and its authors.
        fid: the published FID.
        source: the publication.
        note: a remark for readers.
    """

    group: str
    name: str
    fid: float
    source: str
    note: str = ""


PUBLISHED = (
    Published(TRAINED, "AttnGAN (Xu et al., 2017)", 35.49, PAPER),
    Published(TRAINED, "DM-GAN (Zhu et al., 2019)", 32.64, PAPER),
    Published(TRAINED, "DF-GAN (Tao et al., 2020)", 21.42, PAPER),
    Published(TRAINED, "DM-GAN + CL (Ye et al., 2021)", 20.79, PAPER),
    Published(TRAINED, "XMC-GAN (Zhang et al., 2021)", 9.33, PAPER),
    Published(TRAINED, "LAFITE (Zhou et al., 2021)", 8.12, PAPER),
    Published(TRAINED, "Make-A-Scene (Gafni et al., 2022)", 7.55, PAPER),
    Published(ZERO_SHOT, "DALL-E (Ramesh et al., 2021)", 17.89, PAPER),
    Published(ZERO_SHOT, "GLIDE (Nichol et al., 2021)", 12.24, PAPER),
    Published(ZERO_SHOT, "DALL-E 2 (Ramesh et al., 2022)", 10.39, PAPER),
    Published(ZERO_SHOT, "Imagen (Saharia et al., 2022)", 7.27, PAPER, "guidance 1.35 at 64 px, 8 at 256 px"),
    Published(LATER, "Karlo (Kakao Brain, 2022)", 14.43, KARLO),
    Published(LATER, "DeepFloyd IF-I-M (2023)", 8.86, DEEPFLOYD, UNPUBLISHED),
    Published(LATER, "DeepFloyd IF-I-L (2023)", 8.06, DEEPFLOYD, UNPUBLISHED),
    Published(LATER, "DeepFloyd IF-I-XL (2023)", 6.66, DEEPFLOYD, UNPUBLISHED),
)


@dataclass(frozen=True)
class OurNumber:
    """A distance that was measured with this program.

    Attributes:
        name: the name of the model in the table.
        value: the distance.
        distance: the name of the distance, as in ``FeatureNetwork.distance``: "FID" for Inception's features only.
        network: the feature network, as in ``FeatureNetwork.title``.
        samples: the number of sampled images.
        data: the reference images, in words.
        on_coco: whether the reference images are COCO's.
        trained_on_coco: whether the model was trained on COCO.
    """

    name: str
    value: float
    distance: str
    network: str
    samples: int
    data: str
    on_coco: bool
    trained_on_coco: bool

    @property
    def is_coco_fid(self) -> bool:
        """Whether the number is comparable with the column: an FID on COCO."""
        return self.distance == "FID" and self.on_coco

    @property
    def note(self) -> str:
        """A description of the number, with the reason if it is not comparable."""
        measured = f"of {self.network}, {self.samples:,} images against {self.data}"
        if self.distance != "FID":
            return f"not FID: {self.distance} {self.value:.4g} {measured}"
        if not self.on_coco:
            return f"not COCO: FID {self.value:.4g} {measured}"
        few = "" if self.samples >= CAPTIONS else f"; with fewer than {CAPTIONS:,} images, FID is higher"
        return measured + few


@dataclass(frozen=True)
class TableRow:
    """A row of the printed table.

    Attributes:
        group: the heading above the row.
        name: the name of the system.
        value: the number in the column; None if it is not comparable.
        note: the remark beside the number.
        source: the publication; "" for our number.
        ours: whether the row is ours.
    """

    group: str
    name: str
    value: float | None
    note: str
    source: str
    ours: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields by name, in a form that JSON can hold."""
        return asdict(self)


def table_with(ours: OurNumber | None = None) -> list[TableRow]:
    """Returns the published table, with our row at the end of its group."""
    rows = [TableRow(row.group, row.name, row.fid, row.note, row.source) for row in PUBLISHED]
    if ours is None:
        return rows
    group = TRAINED if ours.trained_on_coco else ZERO_SHOT
    end = max(number for number, row in enumerate(rows, start=1) if row.group == group)
    value = ours.value if ours.is_coco_fid else None
    return [*rows[:end], TableRow(group, ours.name, value, ours.note, "", ours=True), *rows[end:]]
