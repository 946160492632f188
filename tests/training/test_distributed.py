"""Ranks of a node take turns where each needs much memory."""

import fcntl
import tempfile

import pytest

from manzano.training import distributed


def test_a_turn_is_held_by_one_rank_of_a_node_and_given_back(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with distributed.turn():
        (lock,) = tmp_path.glob("manzano-*-29500.lock")
        with lock.open("w") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_single_process_takes_no_turn(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    with distributed.turn():
        assert list(tmp_path.iterdir()) == []
