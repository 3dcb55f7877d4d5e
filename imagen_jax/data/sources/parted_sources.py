"""The registry of sources of any size. To add one, write a function that lists parts, and add a line here."""

from collections.abc import Sequence
from typing import Any

from imagen_jax.data.sources import coco, emoji_fonts, openmoji, synthetic, tables, tar_shards, tux_paint
from imagen_jax.data.sources.records import Part
from imagen_jax.data.sources.sources import Source, list_all

PARTED_SOURCES: dict[str, Source[Part]] = {
    "coco": Source(coco.coco_parts, coco.ATTRIBUTION),
    "emoji_fonts": Source(emoji_fonts.emoji_parts, emoji_fonts.ATTRIBUTION),
    "folder": Source(tables.folder_parts, tables.ATTRIBUTION),
    "openmoji": Source(openmoji.openmoji_parts, openmoji.ATTRIBUTION),
    "table": Source(tables.table_parts, tables.ATTRIBUTION),
    "tar_shards": Source(tar_shards.tar_shard_parts, tar_shards.ATTRIBUTION),
    "synthetic": Source(synthetic.synthetic_parts, synthetic.ATTRIBUTION),
    "tux_paint": Source(tux_paint.tux_paint_parts, tux_paint.ATTRIBUTION),
}


def list_parts(source_name: str, options: dict[str, Any]) -> Sequence[Part]:
    """Lists the parts of the source with a name.

    Raises:
        UserError: the source or an option is unknown, an option is missing, or the source itself raises it.
    """
    return list_all(PARTED_SOURCES, source_name, options)
