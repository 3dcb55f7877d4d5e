"""Writes the table of the reports in this folder into its README: python launch/reports/pods/make_table.py."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
BEGIN, END = "<!-- the table -->", "<!-- end of the table -->"

COLUMNS = (
    "report", "program", "pod", "batch", "GiB a chip (free)", "compiled / model FLOP", "GB of HBM", "GB sent",
    "all-to-all and permute", "ms: compute / HBM / interconnect", "MFU at most", "a second and chip", "compiled in",
)  # fmt: skip


def make_row(name: str, report: dict[str, Any]) -> list[str]:
    """The cells of one report."""
    memory, times, exchanged = report["memory"], report["roofline_seconds"], report["collectives"]
    odd = [exchanged[kind] for kind in ("all-to-all", "collective-permute")]
    count, moved = sum(one["count"] for one in odd), sum(one["bytes_moved"] for one in odd)
    share = f" ({100 * moved / report['bytes_moved_per_chip']:.2f}% of bytes)" if count else ""
    config = report.get("config")
    program = f"{report['program']} {config['network']['name']}" if config else report["program"]
    unit = report["unit"]
    return [
        f"`{name}`",
        program,
        report["pod"],
        f"{report['batch']:,} {unit}s",
        f"{memory['total'] / 2**30:.1f} of {memory['available'] / 2**30:.0f} ({100 * memory['free_share']:.0f}%)",
        f"{report['compiled_over_model_flops']:.3f}",
        f"{report['bytes_accessed_per_chip'] / 1e9:.0f}",
        f"{report['bytes_moved_per_chip'] / 1e9:.2f}",
        f"{count}{share}",
        " / ".join(f"{1e3 * times[name]:.1f}" for name in ("compute", "memory", "interconnect")),
        f"{100 * report['mfu']:.1f}%",
        f"{report[f'{unit}s_per_second_per_chip']:,.1f} {unit}s",
        f"{report['compile_seconds']:.0f} s",
    ]


def split_numbers(name: str) -> list[str | int]:
    """A name's words and numbers in turn, so that 64 comes before 256."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def make_table() -> str:
    """A row for each report, by name."""
    paths = sorted(FOLDER.glob("*.json"), key=lambda path: split_numbers(path.stem))
    rows = [make_row(path.stem, json.loads(path.read_text())) for path in paths]
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def put_table(readme: str) -> str:
    """The README with the table of now."""
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{make_table()}\n\n{END}{after}"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    readme = FOLDER / "README.md"
    readme.write_text(put_table(readme.read_text()))
