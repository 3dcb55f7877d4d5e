"""The database of ratings: each answer is stored for the right model, even after crashes and damage."""

import re
import shutil
import sqlite3
import threading

import pytest

from imagen_jax.errors import UserError
from imagen_jax.web.pairs import make_comparison
from imagen_jax.web.ratings import RatingStore, unblind
from tests.web.rating_folders import BLUE, PROMPTS, write_image, write_two_folders


@pytest.fixture
def comparison(tmp_path):
    return make_comparison(*write_two_folders(tmp_path, categories=["Colors", "Animals", "Food"]))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ratings.sqlite"


def test_answers_are_turned_back_into_models(path, comparison):
    with RatingStore(path, comparison) as store:
        first, second, third = (pair.key for pair in comparison.pairs)
        store.keep("Ann", first, "a", "left", "right")
        store.keep("Ann", second, "b", "left", "indifferent")
        store.keep("Bøb 🐼", third, "b", "right", "indifferent")
        assert store.rated("Ann") == {first, second} and store.rated("Cid") == set()
        assert store.share_of_left() == 0.5 and store.count_pairs() == 3
        secret = store.secret
    with RatingStore(path) as store:
        assert store.secret == secret and store.names == ("ours", "theirs")
        found = {(one.rater, one.prompt, one.question): (one.category, one.answer) for one in store.ratings()}
    prompts = [pair.prompt for pair in comparison.pairs]
    kinds = [pair.category for pair in comparison.pairs]
    assert sorted(kinds) == ["Animals", "Colors", "Food"]
    assert found == {
        ("Ann", prompts[0], "alignment"): (kinds[0], "a"),
        ("Ann", prompts[0], "fidelity"): (kinds[0], "b"),
        ("Ann", prompts[1], "alignment"): (kinds[1], "b"),
        ("Ann", prompts[1], "fidelity"): (kinds[1], "indifferent"),
        ("Bøb 🐼", prompts[2], "alignment"): (kinds[2], "a"),
        ("Bøb 🐼", prompts[2], "fidelity"): (kinds[2], "indifferent"),
    }


def test_an_answer_of_a_side_is_one_of_a_model():
    table = {("left", "a"): "a", ("left", "b"): "b", ("right", "a"): "b", ("right", "b"): "a"}
    for (answer, left), model in table.items():
        assert unblind(answer, left) == model
        assert unblind("indifferent", left) == "indifferent"


def test_a_second_answer_replaces_the_first(path, comparison):
    key = comparison.pairs[0].key
    with RatingStore(path, comparison) as store:
        for answer in ("left", "right", "indifferent"):
            store.keep("Ann", key, "a", answer, answer)
        assert [one.answer for one in store.ratings()] == ["indifferent"] * 2
        assert store.share_of_left() is None


def test_an_answer_is_on_the_disk_at_once(path, comparison, tmp_path):
    with RatingStore(path, comparison) as store:
        store.keep("Ann", comparison.pairs[0].key, "a", "left", "left")
        # As the disk would be after a kill: the log has not been taken into the file.
        for file in tmp_path.glob("ratings.sqlite*"):
            shutil.copy(file, tmp_path / file.name.replace("ratings", "killed"))
        with RatingStore(path) as other:
            assert len(other.ratings()) == 2, "another program reads while this one has it open"
    with RatingStore(tmp_path / "killed.sqlite", comparison) as store:
        assert store.rated("Ann") == {comparison.pairs[0].key}
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    connection.close()


def test_many_threads_and_two_servers_write_at_once(path, comparison):
    with RatingStore(path, comparison) as one, RatingStore(path, comparison) as two:

        def rate(store, rater):
            for pair in comparison.pairs:
                store.keep(rater, pair.key, "a", "left", "right")

        threads = [
            threading.Thread(target=rate, args=((one, two)[number % 2], f"rater {number}")) for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(one.ratings()) == 8 * 3 * 2 and one.ratings() == two.ratings()


def test_two_servers_begin_it_at_once_with_one_secret(path, comparison):
    secrets = []

    def begin():
        with RatingStore(path, comparison) as store:
            secrets.append(store.secret)

    threads = [threading.Thread(target=begin) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(secrets) == 6 and len(set(secrets)) == 1


def test_it_belongs_to_its_images(path, comparison, tmp_path):
    RatingStore(path, comparison).__exit__()
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with pytest.raises(UserError, match="--a and --b"):
        RatingStore(path, make_comparison(theirs, ours))
    ours.rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    (moved / "prompts.csv").unlink()
    with RatingStore(path, make_comparison(moved, theirs)) as store:
        assert store.names == ("ours", "theirs"), "a folder may be moved"
        store.keep("Ann", comparison.pairs[0].key, "a", "left", "left")
        assert {one.category for one in store.ratings()} == {"all"}, "categories are as they are now"
    write_image(theirs, PROMPTS[0], 0, (31, 30, 200))
    with pytest.raises(UserError, match=r"ours and theirs .*--out"):
        RatingStore(path, make_comparison(moved, theirs))


def test_it_belongs_to_its_sets(path, tmp_path):
    folders = write_two_folders(tmp_path, each=2)
    RatingStore(path, make_comparison(*folders, together=2)).__exit__()
    with pytest.raises(UserError, match="--together"):
        RatingStore(path, make_comparison(*folders))


def test_other_and_damaged_files_are_refused(path, comparison, tmp_path):
    def refused(given=comparison):
        with pytest.raises(UserError, match=re.escape(str(path))):
            RatingStore(path, given)

    path.write_bytes(b"not ratings at all " * 100)
    refused()
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE customers (name)")
    connection.close()
    refused()
    path.write_bytes(b"")
    refused(None)
    RatingStore(path, comparison).__exit__()
    content = path.read_bytes()
    for damaged in (
        content[: len(content) // 2],
        content[:4096] + bytes(len(content) - 4096),
        b"x" * 200 + content[200:],
    ):
        path.write_bytes(damaged)
        refused()
    path.unlink()
    path.mkdir()
    refused()
    path = tmp_path / "none" / "ratings.sqlite"
    refused()


def test_a_file_that_became_unwritable_is_named(path, comparison):
    with RatingStore(path, comparison) as store:
        store._ask("PRAGMA query_only = ON")
        with pytest.raises(UserError, match=r"ratings\.sqlite"):
            store.keep("Ann", comparison.pairs[0].key, "a", "left", "left")


def test_bucket_paths_are_refused(comparison, bucket):
    with pytest.raises(UserError, match="--out"):
        RatingStore(bucket / "ratings.sqlite", comparison)


def test_images_of_the_other_folder_count_for_the_fingerprint(path, tmp_path, comparison):
    RatingStore(path, comparison).__exit__()
    for folder in ("ours", "theirs"):
        write_image(tmp_path / folder, "one more", 0, BLUE if folder == "theirs" else (1, 2, 3))
    with pytest.raises(UserError, match=r"ours and theirs .*--out"):
        RatingStore(path, make_comparison(tmp_path / "ours", tmp_path / "theirs"))


@pytest.mark.parametrize("secret", ["xyz", 3])
def test_an_invalid_secret_is_refused(path, comparison, secret):
    with RatingStore(path, comparison):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE about SET value = ? WHERE name = 'secret'", (secret,))
    connection.close()
    with pytest.raises(UserError, match="secret"):
        RatingStore(path, comparison)


def test_damage_with_undecodable_text_is_refused(path, comparison):
    with RatingStore(path, comparison):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    # SQLite's message quotes the word that it can't parse.
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE pairs", b"CREATE \x89ABLE pairs"))
    with pytest.raises(UserError, match=r"ratings\.sqlite"), RatingStore(path):
        pass


@pytest.mark.parametrize(("column", "value"), [("alignment", "both"), ('"left"', "c"), ("rater", b"\xff")])
def test_an_invalid_answer_is_damage(path, comparison, column, value):
    with RatingStore(path, comparison) as store:
        store.keep("Ann", comparison.pairs[0].key, "a", "left", "left")
        connection = sqlite3.connect(path)
        with connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute(f"UPDATE ratings SET {column} = ?", (value,))
        connection.close()
        with pytest.raises(UserError, match=r"ratings\.sqlite"):
            store.ratings()
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE ratings SET rater = 'Ann', pair = ?", (b"1",))
        connection.close()
        with pytest.raises(UserError, match=r"ratings\.sqlite"):
            store.rated("Ann")


@pytest.mark.parametrize("kind", ["VIEW", "TRIGGER"])
def test_views_and_triggers_are_refused(path, comparison, kind):
    """A view instead of a table could yield endless rows."""
    made = {
        "VIEW": "CREATE VIEW pairs(pair, prompt, category) AS WITH RECURSIVE n(i) AS "
        "(SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i, i, i FROM n",
        "TRIGGER": "CREATE TRIGGER t AFTER INSERT ON ratings BEGIN DELETE FROM about; END",
    }
    with RatingStore(path, comparison):
        pass
    connection = sqlite3.connect(path)
    with connection:
        if kind == "VIEW":
            connection.execute("DROP TABLE pairs")
        connection.execute(made[kind])
    connection.close()
    for wanted in (None, comparison):
        with pytest.raises(UserError, match=r"ratings\.sqlite"), RatingStore(path, wanted):
            pass
