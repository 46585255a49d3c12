"""Our block in a file that is the user's."""

import stat

import pytest

from flows.dotenv import BEGIN, remove_block, write_block

VALUES = {"PREFECT_API_URL": "http://127.0.0.1:4200/api"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".env"


def test_block_comes_and_the_file_goes_with_it(path):
    write_block(path, VALUES)
    assert "\nPREFECT_API_URL=http://127.0.0.1:4200/api\n" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    remove_block(path)
    assert not path.exists()


@pytest.mark.parametrize("before", ["TOKEN=1\n", "# mine\nA=b\n\nPREFECT_HOME=x\n"])
def test_the_rest_of_the_file_stays(path, before):
    """Byte for byte, whether it is written once or twice."""
    path.write_text(before)
    write_block(path, VALUES)
    write_block(path, VALUES | {"PREFECT_API_URL": "http://127.0.0.1:4300/api"})
    assert path.read_text().startswith(before) and path.read_text().count(BEGIN) == 1
    assert "4300" in path.read_text() and "4200" not in path.read_text()
    remove_block(path)
    assert path.read_text() == before


def test_a_last_line_without_an_end_is_not_joined(path):
    path.write_text("A=b")
    write_block(path, VALUES)
    assert path.read_text().startswith("A=b\n")


def test_a_block_without_its_end_takes_nothing_of_the_users(path):
    """Somebody has removed the last line."""
    path.write_text(f"A=b\n{BEGIN}\nPREFECT_API_URL=x\nTOKEN=1\n")
    remove_block(path)
    assert path.read_text() == "A=b\nTOKEN=1\n"


def test_nothing_to_remove(path):
    remove_block(path)
    path.write_text("A=b\n")
    remove_block(path)
    assert path.read_text() == "A=b\n"
