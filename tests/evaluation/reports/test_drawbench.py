"""Prompts with categories: the public file as it is, our own set, and tables that are not right."""

import collections
import csv
import io
import re

import pytest

from imagen_jax.errors import UserError
from imagen_jax.evaluation.reports.drawbench import DrawBenchPrompt, own_prompts, read_drawbench, write_prompts

CATEGORIES = [
    "Colors", "Conflicting", "Counting", "DALL-E", "Descriptions", "Gary Marcus et al.", "Misspellings", "Positional",
    "Rare Words", "Reddit", "Text",
]  # fmt: skip


def write(folder, text, name="prompts.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def test_a_table_as_it_is_published_is_read(tmp_path):
    rows = "Prompts,Category\r\n\"Two oxen, one cart.\",Counting\r\nA café that says 'Hi'.,Gary Marcus et al. \r\n"
    assert read_drawbench(write(tmp_path, rows, encoding="utf-8-sig")) == [
        DrawBenchPrompt("Counting", "Two oxen, one cart."),
        DrawBenchPrompt("Gary Marcus et al.", "A café that says 'Hi'."),
    ]


@pytest.mark.parametrize("header", ["category,note,PROMPT", " Category ,x,Prompts", "CATEGORY,x,prompts"])
def test_columns_are_found_in_any_order_and_case_among_others(tmp_path, header):
    assert read_drawbench(write(tmp_path, f"{header}\nText,9,An ox.\n")) == [DrawBenchPrompt("Text", "An ox.")]


def test_other_kinds_of_table_are_read(tmp_path):
    expected = [DrawBenchPrompt("Text", "An ox.")]
    assert read_drawbench(write(tmp_path, "Prompts\tCategory\nAn ox.\tText\n", "p.tsv")) == expected
    assert read_drawbench(write(tmp_path, '{"Prompts": "An ox.", "Category": "Text"}\n', "p.jsonl")) == expected


def test_a_prompt_that_is_there_again_is_kept_once_and_counted(tmp_path):
    rows = "Prompts,Category\nAn ox.,Text\nA yak.,Text\n An ox. ,Reddit\nAn ox.,Text\n"
    assert read_drawbench(write(tmp_path, rows)) == [
        DrawBenchPrompt("Text", "An ox.", 3),
        DrawBenchPrompt("Text", "A yak.", 1),
    ]


def test_empty_lines_and_rows_are_left_out(tmp_path):
    assert len(read_drawbench(write(tmp_path, "Prompts,Category\n\nAn ox.,Text\n,\n , \n\n"))) == 1


@pytest.mark.parametrize(
    ("rows", "facts"),
    [
        ("Prompts,Category\nAn ox.,Text\nA yak.\n", r"line 3 of .*\.csv"),
        ("Prompts,Category\nAn ox.,Text\nA yak.,\n", "line 3 of .*category"),
        ('Prompts,Category\n"An\nox.",Text\n,Text\n', "line 4 of .*prompt"),
        ('Prompts,Category\n"An ox.,Text\n', "line 2 of "),
        ("Prompt,Categorie\nAn ox.,Text\n", "Category.*Prompt, Categorie"),
        ("An ox.,Text\nA yak.,Text\n", "Prompts"),
        ("Prompts,prompt,category\na,b,c\n", "Prompts, prompt, category"),
        ("Prompts,Category\n", "Prompts,Category"),
        ("", "Prompts,Category"),
    ],
)  # fmt: skip
def test_the_wrong_row_or_column_of_a_table_is_named(tmp_path, rows, facts):
    with pytest.raises(UserError, match=facts):
        read_drawbench(write(tmp_path, rows))


def test_text_that_is_not_utf_8_is_named(tmp_path):
    with pytest.raises(UserError, match="line 2 of "):
        read_drawbench(write(tmp_path, "Prompts,Category\nUn café.,Text\n", encoding="latin-1"))


def test_files_that_are_not_tables_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv"):
        read_drawbench(tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"'\.xlsx'"):
        read_drawbench(tmp_path / "prompts.xlsx")


def test_our_own_set_has_eighteen_different_sentences_of_each_category():
    prompts = own_prompts()
    assert collections.Counter(prompt.category for prompt in prompts) == dict.fromkeys(CATEGORIES, 18)
    assert list(dict.fromkeys(prompt.category for prompt in prompts)) == CATEGORIES
    assert len({prompt.prompt.lower() for prompt in prompts}) == len(prompts) == 198
    for prompt in prompts:
        assert re.fullmatch(r"[A-Z][^\n]*[.']", prompt.prompt) and "  " not in prompt.prompt
        assert prompt.times == 1 and prompt.prompt == prompt.prompt.strip()


def test_our_own_prompts_fit_their_categories():
    texts = collections.defaultdict(list)
    for prompt in own_prompts():
        texts[prompt.category].append(prompt.prompt)
    assert all(len(re.findall("'[^']+'", text)) >= 1 for text in texts["Text"])
    positions = ("on top of", "underneath", "left of", "right of", "in front of", "behind", "between")
    assert all(any(position in text for position in positions) for text in texts["Positional"])
    colours = r"turquoise|crimson|purple|white|golden|black|silver|pink|green|yellow|red|violet|orange|brown|blue"
    assert all(re.search(colours, text) for text in texts["Colors"])
    assert min(len(text.split()) for text in texts["Descriptions"]) > 12


def test_prompts_are_written_as_the_public_file_has_them_and_read_back(tmp_path):
    prompts = [*own_prompts(), DrawBenchPrompt("Text", 'A sign, "quoted", café ☕ 日本語', 2)]
    write_prompts(tmp_path / "prompts.csv", prompts)
    content = (tmp_path / "prompts.csv").read_bytes().decode()
    rows = list(csv.DictReader(io.StringIO(content)))
    assert list(rows[0]) == ["Prompts", "Category"]
    assert [(row["Category"], row["Prompts"]) for row in rows] == [prompt[:2] for prompt in prompts]
    assert read_drawbench(tmp_path / "prompts.csv") == [prompt._replace(times=1) for prompt in prompts]


def test_an_unwritable_path_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none/prompts\.csv"):
        write_prompts(tmp_path / "none" / "prompts.csv", own_prompts())
