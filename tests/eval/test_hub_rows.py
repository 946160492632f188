"""Rows in the hub's columns: read in any order from either kind of file; faults are said."""

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from manzano.eval.text_rich.hub_rows import HubRows, strings
from tests.eval.hub_data import encoded, rows, write_parquet, write_shard
from tests.tiny import drawing

COLUMNS = ("type", "question", "answer")
WRITERS = {"parquet": write_parquet, "shard": write_shard}


@pytest.mark.parametrize("kind", WRITERS)
def test_rows_come_back_in_any_order(tmp_path, kind):
    content = rows("chartqa", 11)
    WRITERS[kind](tmp_path, "chartqa", content)
    found = HubRows(tmp_path, "test", COLUMNS)
    assert len(found) == 11
    for place in (10, 0, 5, 6, 5, 3, 9):
        row = found.row(place)
        assert {name: row[name] for name in COLUMNS} == {
            name: content[place][name] for name in COLUMNS
        }
        assert found.picture(place).tobytes() == drawing(place).tobytes()
    assert found.name(7).rpartition(":")[2] == ("1" if kind == "parquet" else "7")


def test_a_picture_beside_the_file_is_refused_for_no_hash_knows_of_it(tmp_path):
    (tmp_path / "own.png").write_bytes(encoded(drawing(5)))
    row = rows("chartqa", 1)[0] | {"image": {"bytes": None, "path": "own.png"}}
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "test.parquet")
    with pytest.raises(ValueError, match="not in the file, which has but its path, 'own.png'"):
        HubRows(tmp_path, "test", COLUMNS).picture(0)


def test_a_sample_with_half_a_character_fails_alone(tmp_path):
    content = rows("chartqa", 2)
    content[0]["question"] = "a \ud800"
    write_shard(tmp_path, "chartqa", content)
    found = HubRows(tmp_path, "test", COLUMNS)
    with pytest.raises(ValueError, match="surrogates not allowed"):
        found.row(0)
    assert found.row(1)["question"] == content[1]["question"]


def test_a_missing_column_is_named_beside_those_that_are_there(tmp_path):
    content = [{"query": "q", "label": "a", "image": encoded(drawing())}]
    write_parquet(tmp_path, "chartqa", content, files=1)
    with pytest.raises(ValueError, match="lacks the columns type, question, answer; it has query"):
        HubRows(tmp_path, "test", COLUMNS)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ValueError, match="no validation-.*it has no parquet and no tar files"):
        HubRows(tmp_path, "validation", COLUMNS)
    write_parquet(tmp_path, "chartqa", rows("chartqa", 2))
    with pytest.raises(ValueError, match=r"no validation-.*it has test-00000-of-00002.parquet"):
        HubRows(tmp_path, "validation", COLUMNS)
    write_shard(tmp_path, "chartqa", rows("chartqa", 2))
    with pytest.raises(ValueError, match="more than once"):
        HubRows(tmp_path, "test", COLUMNS)


@pytest.mark.parametrize("name", ["test-0.parquet", "test-0.tar"])
def test_a_damaged_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"not what it says" * 40)
    with pytest.raises(ValueError, match=name):
        HubRows(tmp_path, "test", COLUMNS)


@pytest.mark.parametrize("kind", WRITERS)
def test_pictures_that_cannot_be_read_are_refused_one_by_one(tmp_path, kind):
    content = rows("chartqa", 3)
    content[0]["image"] = None
    content[1]["image"] = content[1]["image"][:100]
    WRITERS[kind](tmp_path, "chartqa", content)
    found = HubRows(tmp_path, "test", COLUMNS)
    with pytest.raises(ValueError, match="no picture"):
        found.picture(0)
    with pytest.raises(ValueError, match="truncated or corrupt"):
        found.picture(1)
    assert found.picture(2).size == (48, 48)


@pytest.mark.parametrize("cut", [700, 3 * 512 + 40, -1024])
def test_a_cut_shard_is_refused(tmp_path, cut):
    path = write_shard(tmp_path, "chartqa", rows("chartqa", 3))
    path.write_bytes(path.read_bytes().rstrip(b"\0")[:cut])
    with pytest.raises(ValueError, match="no tar file, or a damaged one"):
        HubRows(tmp_path, "test", COLUMNS)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        (("a",), ["a"]),
        (3, ["3"]),
        (2.5, ["2.5"]),
        ([1, "x"], ["1", "x"]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array(["a"], dtype=object), ["a"]),
        (np.int64(4), ["4"]),
    ],
)
def test_answers_of_several_types_become_texts(value, expected):
    assert strings(value, "answer") == expected


@pytest.mark.parametrize("value", [None, [], [None], {"answer": "a"}, b"a", True, [["a"]]])
def test_other_types_of_answers_are_refused(value):
    with pytest.raises(ValueError, match="answer must hold one text or several, got"):
        strings(value, "answer")
