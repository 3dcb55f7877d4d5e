"""The table of sources of any size. A new one is a function that lists parts, and a line here."""

from typing import Any

from imagen_jax.data import coco, synthetic, tables, tar_shards, tux_paint
from imagen_jax.data.records import Part, PartedSource
from imagen_jax.data.sources import check_options
from imagen_jax.errors import choose

PARTED_SOURCES: dict[str, PartedSource] = {
    "coco": PartedSource(coco.coco_parts, coco.ATTRIBUTION),
    "folder": PartedSource(tables.folder_parts, tables.ATTRIBUTION),
    "table": PartedSource(tables.table_parts, tables.ATTRIBUTION),
    "tar_shards": PartedSource(tar_shards.tar_shard_parts, tar_shards.ATTRIBUTION),
    "synthetic": PartedSource(synthetic.synthetic_parts, synthetic.ATTRIBUTION),
    "tux_paint": PartedSource(tux_paint.tux_paint_parts, tux_paint.ATTRIBUTION),
}


def list_parts(source_name: str, options: dict[str, Any]) -> list[Part]:
    """Lists the parts of the source of that name.

    Raises:
        UserError: an unknown source or option, a missing option, or what the source itself raises.
    """
    source = choose(PARTED_SOURCES, source_name, "data source")
    check_options(source_name, source.list_parts, options)
    return source.list_parts(**options)
