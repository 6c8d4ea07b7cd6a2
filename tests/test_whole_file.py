"""Files and folders that are whole or untouched, whatever happens while they are written."""

import pytest

from hf_bert4rec.whole_file import OPTIONS_FILE, check_not_inside, whole_file, whole_folder, write_whole_file


def test_a_file_takes_its_name_when_all_is_written_and_keeps_its_old_text_when_not(tmp_path):
    path = tmp_path / "a.json"
    write_whole_file(path, "old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as partial:
        partial.write_text("half")
        assert path.read_text() == "old"
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["a.json"]
    write_whole_file(path, "new")
    assert path.read_text() == "new"


def test_the_folder_of_a_file_is_made_and_no_folder_is_taken_for_a_file(tmp_path):
    write_whole_file(tmp_path / "deep" / "er" / "a.json", "text")
    assert (tmp_path / "deep" / "er" / "a.json").read_text() == "text"
    with pytest.raises(IsADirectoryError, match=r"er is a folder; give the name of a file, such as .*er/output\.json"):
        write_whole_file(tmp_path / "deep" / "er", "text")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["er"]


def test_a_folder_takes_its_name_when_all_is_written_and_nothing_is_left_when_not(tmp_path):
    path = tmp_path / "deep" / "folder"
    with pytest.raises(ZeroDivisionError), whole_folder(path) as partial:
        (partial / "half").touch()
        raise ZeroDivisionError
    assert list(path.parent.iterdir()) == []
    with whole_folder(path) as partial:
        (partial / "whole").touch()
        assert not path.exists()
    assert [found.name for found in path.parent.rglob("*")] == ["folder", "whole"]


def test_a_folder_that_exists_is_refused_or_replaced_once_the_new_one_is_whole(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(FileExistsError, match="folder exists; give another folder"), whole_folder(path):
        pass
    with pytest.raises(ZeroDivisionError), whole_folder(path, overwrite=True):
        raise ZeroDivisionError
    assert [found.name for found in path.iterdir()] == ["old"]
    with whole_folder(path, overwrite=True) as partial:
        (partial / "new").touch()
    assert [found.name for found in path.iterdir()] == ["new"]


def test_what_can_be_no_earlier_output_is_never_replaced(tmp_path):
    for name in ("data/data.json", "model/config.json", "home/letters/mine.txt", "file"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
        path = tmp_path / name.partition("/")[0]
        with (
            pytest.raises(
                FileExistsError, match=r"is no earlier output of this command .* stays; give another folder"
            ),
            whole_folder(path, overwrite=True),
        ):
            pass
        assert (tmp_path / name).read_text() == "mine"


def test_a_training_that_is_not_finished_is_not_swept_away(tmp_path):
    (tmp_path / "run.partial").mkdir()
    (tmp_path / "run.partial" / OPTIONS_FILE).touch()
    with (
        pytest.raises(FileExistsError, match=r"run\.partial is an unfinished training; finish it"),
        whole_folder(tmp_path / "run", overwrite=True),
    ):
        pass
    assert (tmp_path / "run.partial" / OPTIONS_FILE).exists()


def test_a_folder_that_holds_what_is_read_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.csv").touch()
    for read in (tmp_path / "run" / "log.csv", str(tmp_path / "run" / "*.csv"), tmp_path / "run"):
        with pytest.raises(FileExistsError, match=r"run holds .*, which would be deleted with it, and stays; give"):
            check_not_inside(tmp_path / "run", [None, read])
    monkeypatch.chdir(tmp_path / "run")
    check_not_inside(tmp_path / "run", ["ml-1m", tmp_path, None])  # a name, and what is elsewhere
    check_not_inside(tmp_path / "other", [tmp_path / "other"])
