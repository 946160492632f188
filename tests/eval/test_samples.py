"""The sample log: what a kill leaves is gone on with, and nothing else is."""

import pytest

from manzano.eval.samples import SampleLog, each, run_logged

ITEMS = list(range(11))
SETTINGS = {"prompt": "{question}", "limit": None}


class Killed(Exception):
    pass


def runner(until: int = 99):
    """Doubles its items, and tells of the batch it saw; the batch number `until` is a kill."""
    seen: list[list[int]] = []

    def run(batch):
        if len(seen) == until:
            raise Killed
        seen.append(list(batch))
        return [{"key": str(item), "value": 2 * item + len(batch)} for item in batch]

    return run, seen


def values(records):
    return [(record["key"], record["value"]) for record in records]


def log(tmp_path, settings=SETTINGS, batch_size=4):
    return SampleLog(tmp_path / "deep" / "task.jsonl", settings, batch_size=batch_size)


def expected(tmp_path):
    return values(run_logged(ITEMS, log(tmp_path / "whole"), runner()[0], "x"))


@pytest.mark.parametrize("until", [0, 1, 2])
def test_killed_and_gone_on_equals_uninterrupted(tmp_path, until):
    with pytest.raises(Killed):
        run_logged(ITEMS, log(tmp_path), runner(until)[0], "x")
    run, seen = runner()
    again = log(tmp_path)
    assert values(run_logged(ITEMS, again, run, "x")) == expected(tmp_path)
    assert seen[0][0] == 4 * until
    assert values(log(tmp_path).records) == expected(tmp_path)
    assert again.seconds == sum(record["seconds"] for record in again.records)


@pytest.mark.parametrize("torn", ["half a line", "part of a batch"])
def test_a_torn_batch_is_done_again_whole(tmp_path, torn):
    whole = log(tmp_path)
    run_logged(ITEMS, whole, runner()[0], "x")
    lines = whole.path.read_text().splitlines(keepends=True)
    kept = lines[:6] if torn == "part of a batch" else [*lines[:8], lines[8][:5]]
    whole.path.write_text("".join(kept))
    run, seen = runner()
    assert values(run_logged(ITEMS, log(tmp_path), run, "x")) == expected(tmp_path)
    assert seen[0] == ITEMS[4:8] if torn == "part of a batch" else seen[0] == ITEMS[8:]


def test_what_is_finished_is_not_done_again(tmp_path):
    run_logged(ITEMS, log(tmp_path), runner()[0], "x")
    run, seen = runner()
    assert values(run_logged(ITEMS, log(tmp_path), run, "x")) == expected(tmp_path)
    assert not seen


@pytest.mark.parametrize(
    ("settings", "batch_size"), [({**SETTINGS, "limit": 3}, 4), ({"prompt": "x"}, 4), (SETTINGS, 5)]
)
def test_other_settings_are_refused(tmp_path, settings, batch_size):
    run_logged(ITEMS, log(tmp_path), runner()[0], "x")
    with pytest.raises(ValueError, match="begun with other settings"):
        log(tmp_path, settings, batch_size)


def test_a_damaged_log_is_refused(tmp_path):
    run_logged(ITEMS, log(tmp_path), runner()[0], "x")
    (tmp_path / "deep" / "task.jsonl").write_text("not json\n")
    with pytest.raises(ValueError, match="damaged"):
        log(tmp_path)


def test_a_batch_needs_a_sample(tmp_path):
    with pytest.raises(ValueError, match="batch_size"):
        log(tmp_path, batch_size=0)


def test_a_run_that_loses_a_sample_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="1 records came of a batch of 4"):
        run_logged(ITEMS, log(tmp_path), lambda batch: [{"key": "0"}], "x")


def test_a_faulty_sample_harms_no_other():
    def run(batch):
        if 3 in batch or 7 in batch:
            raise ValueError(f"cannot read {batch}")
        return [2 * item for item in batch]

    results = each(run, ITEMS)
    faulty = [item for item, r in zip(ITEMS, results, strict=True) if isinstance(r, ValueError)]
    assert faulty == [3, 7] and str(results[3]) == "cannot read [3]"
    assert [r for r in results if not isinstance(r, ValueError)] == [
        2 * item for item in ITEMS if item not in faulty
    ]
