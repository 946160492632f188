"""docs/results.md: the paper's figures and ours, from the committed score files alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from manzano.cli import main
from manzano.eval.results.page import PAPER, results_page
from manzano.eval.scores import Score, ScoreFile, TaskScores, read_scores, write_scores

ROOT = Path(__file__).parents[2]
COMMITTED = sorted((ROOT / "docs/scores").glob("*.json"))


def score_file(task: str = "chartqa", n: int = 2500, **scores: Score) -> ScoreFile:
    own = scores or {
        "relaxed_overall": Score(
            value=0.25, n=n, low=0.2, high=0.3, floors={"majority": 0.04}, ceilings={"ids": 0.5}
        )
    }
    return ScoreFile(
        suite="text-rich", model={"name": "my|model", "sha256": "0123456789ab", "config": {}},
        environment={"hardware": "a GPU", "commit": "c" * 40}, seed=3,
        tasks={task: TaskScores(scores=own, n=n, data={}, settings={}, failed={"7": "broken"})},
        started="2026-01-31T12:00:00+00:00", wall_seconds=90,
    )  # fmt: skip


def row(page: str, begin: str) -> list[list[str]]:
    """The cells of the rows that begin so."""
    lines = [line for line in page.splitlines() if line.startswith(f"| {begin} |")]
    return [[cell.strip() for cell in line[1:-1].split(" |")] for line in lines]


def test_the_committed_page_is_what_the_command_makes_of_the_committed_files(tmp_path):
    links = {f"scores/{path.name}": read_scores(path) for path in COMMITTED}
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    assert page == results_page(links), "run `manzano eval results` and commit docs/results.md"


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_a_committed_score_file_is_small(path):
    assert path.stat().st_size <= 500_000, "empty its per_sample and groups"


def test_the_command_writes_links_that_lead_to_the_files(tmp_path, capsys, monkeypatch):
    (tmp_path / "docs").mkdir()
    write_scores(score_file(), tmp_path / "docs/scores/mine.json")
    monkeypatch.chdir(tmp_path)
    assert main(["eval", "results"]) == 0
    assert capsys.readouterr().out == "docs/results.md\n"
    page = Path("docs/results.md").read_text()
    assert page == results_page({"scores/mine.json": score_file()})
    assert "### [mine](scores/mine.json): text-rich" in page
    assert main(["eval", "results", "docs/scores/mine.json", "-o", "page.md"]) == 0
    assert "(docs/scores/mine.json)" in Path("page.md").read_text()
    assert main(["eval", "results", "none.json"]) == 2
    assert "there is no score file none.json" in capsys.readouterr().err


def test_ours_stands_beside_the_paper_with_all_that_belongs_to_it():
    page = results_page({"scores/mine.json": score_file()})
    assert row(page, "ChartQA") == [
        ["ChartQA", "88.2", "89.0", "25.0", "20.0 to 30.0", "majority 4.0", "2500",
         "my\\|model (01234567)", "test"]
    ]  # fmt: skip
    assert row(page, "DocVQA")[0][3] == "not measured"
    assert row(page, "chartqa") == [
        ["chartqa", "relaxed_overall", "0.250", "0.200 to 0.300", "majority 0.040", "ids 0.500",
         "2500", "1"]
    ]  # fmt: skip
    assert (
        "Model my\\|model (01234567), way: light, 2026-01-31, a GPU, 1.5 minutes, seed 3, "
        "commit cccccccccccc.\n"
    ) in page


def test_a_part_of_a_benchmark_and_other_data_do_not_stand_beside_the_paper():
    page = results_page({"a.json": score_file(n=2499)})
    assert row(page, "ChartQA")[0][3] == "not measured"
    assert row(page, "chartqa")[0][2] == "0.250"


def test_each_model_has_a_row_and_a_part_of_geneval_its_own():
    tags = {"overall": 0.5, "counting": 0.25}
    scores = {name: Score(value=value, n=80) for name, value in tags.items()}
    file = score_file("geneval", 553, **scores)
    other = replace(file, model={"name": "other", "sha256": "ff", "config": {}})
    page = results_page({"b.json": other, "a.json": file})
    assert [cells[3] for cells in row(page, "GenEval")] == ["0.50", "0.50"]
    assert [cells[7] for cells in row(page, "GenEval")] == ["my\\|model (01234567)", "other (ff)"]
    assert [cells[3] for cells in row(page, "GenEval counting")] == ["0.25", "0.25"]
    assert row(page, "GenEval position")[0][3] == "not measured"


def test_drawings_that_nobody_scored_are_said_to_be_so():
    file = score_file()
    file = replace(file, tasks={"chartqa": replace(file.tasks["chartqa"], scores={})})
    page = results_page({"a.json": file})
    assert page.endswith("Not scored.\n") and row(page, "ChartQA")[0][3] == "not measured"


def test_every_row_of_the_paper_is_whole():
    paper = yaml.safe_load(PAPER.read_text(encoding="utf-8"))
    rows = [row for table in paper["tables"] for row in table["rows"]]
    assert len({row["benchmark"] for row in rows}) == len(rows) == 26
    for entry in rows:
        assert entry.keys() - {"measure"} == {"benchmark", "figures", "split", "task", "samples"}
        assert len(entry["figures"]) == len(paper["models"])
    tables = {table["unit"]: table["rows"] for table in paper["tables"]}
    assert all(20 < f < 100 for row in tables["percent"] for f in row["figures"])
    assert all(0 < f <= 1 for row in tables["share"] for f in row["figures"])


def test_the_papers_totals_are_those_of_their_parts():
    """WISE is weighed as its first version is; GenEval is the mean of six, but for the 3B."""
    (table,) = (t for t in yaml.safe_load(PAPER.read_text())["tables"] if t["unit"] == "share")
    of = {entry["benchmark"]: entry["figures"] for entry in table["rows"]}
    weights = {
        "culture": 0.4, "time": 0.167, "space": 0.133, "biology": 0.1, "physics": 0.1,
        "chemistry": 0.1,
    }  # fmt: skip
    for model in (0, 1):
        total = sum(weight * of[f"WISE {name}"][model] for name, weight in weights.items())
        assert total == pytest.approx(of["WISE"][model], abs=0.0051)
    parts = [figures[1] for name, figures in of.items() if name.startswith("GenEval ")]
    assert sum(parts) / 6 == pytest.approx(of["GenEval"][1], abs=0.0051)
