"""Lines wait if there is no room for them, and a run continues."""

import resource

import pytest

from imagen_jax.training.monitoring.append_file import open_append_file, warn_on_write_error


@pytest.fixture
def room():
    """Says how long files may become; the kernel then refuses what is beyond, in the midst of a line."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_lines_wait_for_room_and_none_is_missing(tmp_path, room, capsys):
    path = tmp_path / "lines"
    lines = open_append_file(path)
    lines.write("a line\n")
    lines.flush()
    room(10)
    for number in range(3):
        lines.write(f"another {number}\n")
        lines.flush()
    assert path.read_text() == "a line\nano", "half a line is what a kill leaves too"
    printed = capsys.readouterr().err
    assert printed.count("warning") == 1 and f"{path} " in printed
    room(resource.RLIM_INFINITY)
    lines.write("the last\n")
    lines.flush()
    assert path.read_text() == "a line\nanother 0\nanother 1\nanother 2\nthe last\n"
    printed = capsys.readouterr().err
    assert f"{path} " in printed and "warning" not in printed
    lines.close()
    assert capsys.readouterr().err == ""


def test_what_finds_no_room_until_the_end_is_reported(tmp_path, room, capsys):
    lines = open_append_file(tmp_path / "lines")
    room(3)
    lines.write("one\ntwo\n")
    lines.close()
    printed = capsys.readouterr().err
    assert "2 line" in printed and str(tmp_path / "lines") in printed


def test_lines_wait_for_a_bucket(bucket, monkeypatch, capsys):
    lines = open_append_file(bucket / "lines")
    lines.write("one\n")
    lines.upload()

    def refuse(path, content):
        raise ConnectionError("no route")

    with monkeypatch.context() as patch:
        patch.setattr("imagen_jax.training.monitoring.append_file.write_whole", refuse)
        lines.write("two\n")
        lines.upload()
        assert "(no route)" in capsys.readouterr().err
        lines.write("three\n")
        lines.upload()
        assert capsys.readouterr().err == ""
    assert (bucket / "lines").read_text() == "one\n"
    lines.close()
    assert (bucket / "lines").read_text() == "one\ntwo\nthree\n"


def test_other_errors_are_errors():
    with pytest.raises(ZeroDivisionError), warn_on_write_error("a file"):
        print(1 / 0)
