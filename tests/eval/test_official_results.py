"""Official scorers' result files, read back into score files by the official means."""

import csv
import json
import math

import numpy as np
import pytest

from manzano.cli import main
from manzano.eval.scores import ScoreFile, TaskScores, read_scores, write_scores

TAGS = {"00000": "colors", "00001": "colors", "00002": "counting"}


@pytest.fixture
def drawn(tmp_path):
    """`drawn(suite, items)`: an output folder as drawing leaves it, without the pictures."""

    def make(suite, items, files=("a.png",)):
        tasks = {item["task"]: 0 for item in items}
        for item in items:
            tasks[item["task"]] += 1
        scores = ScoreFile(
            suite=suite, model={"sha256": "ab"}, environment={}, seed=0,
            tasks={
                name: TaskScores(scores={}, n=n, data={}, settings={"steps": 1})
                for name, n in tasks.items()
            },
            started="2026-01-01T00:00:00+00:00", wall_seconds=1.0,
        )  # fmt: skip
        output = tmp_path / "out"
        write_scores(scores, output / "scores.json")
        lines = [json.dumps({"files": list(files), **item}) + "\n" for item in items]
        (output / f"{suite}.jsonl").write_text("".join(lines))
        return output

    return make


def read_back(suite, results, output):
    command = ["eval", "model", "--suite", suite, "--results", str(results)]
    assert main([*command, "--output", str(output)]) == 0
    tasks = read_scores(output / "scores.json").tasks
    assert all(task.settings == {"steps": 1, "scorer": "official"} for task in tasks.values())
    return {
        task: {name: score.value for name, score in scores.scores.items()}
        for task, scores in tasks.items()
    }


def geneval_items():
    return [{"key": key, "task": "geneval", "group": tag} for key, tag in TAGS.items()]


def geneval_results(path, correct):
    """As evaluate_images.py writes them: pandas escapes the slashes."""
    lines = [
        json.dumps({"filename": f"x/{key}/samples/{i:04d}.png", "tag": TAGS[key], "correct": ok})
        for key, own in correct.items()
        for i, ok in enumerate(own)
    ]
    path.write_text("\n".join(lines).replace("/", "\\/"))
    return path


GENEVAL_FILES = [f"{i:04d}.png" for i in range(4)] + ["metadata.jsonl"]


def test_geneval_is_the_mean_of_its_tags(drawn, tmp_path):
    correct = {"00000": [1, 1, 0, 0], "00001": [1, 1, 1, 1], "00002": [0, 0, 0, 1]}
    results = geneval_results(
        tmp_path / "r.jsonl", {k: list(map(bool, v)) for k, v in correct.items()}
    )
    output = drawn("geneval", geneval_items(), GENEVAL_FILES)
    read = read_back("geneval", results, output)
    assert read == {"geneval": {"overall": (6 / 8 + 1 / 4) / 2, "colors": 6 / 8, "counting": 1 / 4}}


def test_dpg_is_the_mean_of_the_prompts(drawn, tmp_path):
    results = tmp_path / "dpg-bench_results.txt"
    results.write_text(
        "/a, b/p1.png, 1.0, 0.5, 0.5, 0.0, 0.5\n/a, b/p2.png, 1.0, 1.0, 1.0, 1.0, 1.0\n"
        "Model: dpg\nL1 category scores:\n\tentity: 80.0\nDPG-Bench score: 75.0\n"
    )
    output = drawn("dpg", [{"key": k, "task": "dpg", "group": ""} for k in ("p1", "p2")])
    assert read_back("dpg", results, output) == {"dpg": {"dpg": 0.75}}


def wise_items(*numbers):
    return [{"key": str(n), "task": "wise", "group": "C"} for n in numbers]


def test_the_verified_wise_is_binary(drawn, tmp_path):
    folder = tmp_path / "Results-qwen35"
    folder.mkdir()
    for name, rows in {"culture": {1: 1, 400: 0}, "science": {641: 1, 1000: 1}}.items():
        lines = [json.dumps({"prompt_id": n, "score": s}) + "\n" for n, s in rows.items()]
        (folder / f"{name}_scores_results.jsonl").write_text("".join(lines))
    read = read_back("wise", folder, drawn("wise", wise_items(1, 400, 641, 1000)))
    means = {"wiscore": 0.75, "culture": 0.5, "biology": 1.0, "chemistry": 1.0}
    assert read["wise"] == pytest.approx(means)


def test_the_first_wise_weighs_three_marks(drawn, tmp_path):
    marks = {1: (2, 1, 0), 520: (2, 2, 2), 600: (0, 0, 1)}
    names = ("consistency", "realism", "aesthetic_quality")
    path = tmp_path / "scores_results.jsonl"
    lines = [
        json.dumps({"prompt_id": n, **dict(zip(names, m, strict=True))}) for n, m in marks.items()
    ]
    path.write_text("\n".join(lines))
    read = read_back("wise", path, drawn("wise", wise_items(*marks)))
    own = {n: (0.7 * c + 0.2 * r + 0.1 * a) / 2 for n, (c, r, a) in marks.items()}
    means = {"wiscore": np.mean(list(own.values())), "culture": own[1], "time": own[520]}
    assert read["wise"] == pytest.approx({**means, "space": own[600]})


def test_the_weights_of_wise_are_the_sizes_of_its_categories(drawn, tmp_path):
    rng = np.random.default_rng(0)
    answers = {n: int(rng.integers(2)) for n in range(1, 1001)}
    path = tmp_path / "scores_results.jsonl"
    path.write_text("\n".join(json.dumps({"prompt_id": n, "score": s}) for n, s in answers.items()))
    read = read_back("wise", path, drawn("wise", wise_items(*answers)))["wise"]
    others = sum(read[name] for name in ("time", "space", "biology", "physics", "chemistry"))
    assert read["wiscore"] == pytest.approx(0.40 * read["culture"] + 0.12 * others)


def test_t2i_compbench_is_read_from_where_its_scorers_write(drawn, tmp_path):
    items = [
        {"key": f"{c}/{i:04d}", "task": f"t2i-compbench-{c}", "group": c}
        for c in ("color", "spatial")
        for i in range(2)
    ]
    output = drawn("t2i-compbench", items, [f"{i}.png" for i in range(10)])
    answers = {"color": np.linspace(0, 1, 20), "spatial": np.linspace(0, 0.5, 20)}
    places = {"color": "annotation_blip", "spatial": "labels/annotation_obj_detection_2d"}
    for category, values in answers.items():
        path = tmp_path / category / places[category] / "vqa_result.json"
        path.parent.mkdir(parents=True)
        rows = [{"question_id": i, "answer": f"{v:.4f}"} for i, v in enumerate(values)]
        path.write_text(json.dumps(rows))
    read = read_back("t2i-compbench", tmp_path, output)
    assert read["t2i-compbench-color"]["score"] == pytest.approx(0.5, abs=1e-4)
    assert read["t2i-compbench-spatial"]["score"] == pytest.approx(0.25, abs=1e-4)


def test_t2i_compbench_without_some_pictures_of_a_prompt_is_refused(drawn, tmp_path, capsys):
    items = [{"key": "color/0000", "task": "t2i-compbench-color", "group": "color"}]
    output = drawn("t2i-compbench", items, ["0.png", "1.png"])
    path = tmp_path / "color" / "annotation_blip" / "vqa_result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps([{"question_id": 0, "answer": "1.0"}]))
    command = ["eval", "model", "--suite", "t2i-compbench", "--results", str(tmp_path)]
    assert main([*command, "--output", str(output)]) == 2
    assert "no score of 1 of the 1 prompts, such as color/0000" in capsys.readouterr().err


def gedit_csv(folder, rows):
    """As run_gedit_score.py writes them, a file a kind of edit."""
    names = ["source_image", "edited_image", "instruction", "sementics_score", "quality_score",
             "intersection_exist", "instruction_language"]  # fmt: skip
    folder.mkdir()
    for kind in {row[0] for row in rows}:
        with (folder / f"m_{kind}_gpt_score.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(names)
            for own, key, language, semantics, quality, both in rows:
                path = f"/x/m/fullset/{own}/{language}/{key}"
                row = [f"{path}_SRCIMG.png", f"{path}.png", "do, it", semantics, quality, both]
                if own == kind:
                    writer.writerow([*row, language])
    return folder


GEDIT = [
    ("color_alter", "a", "en", 4, 9, True),
    ("color_alter", "b", "en", 0, 8, False),
    ("subject-add", "c", "en", 9, 9, False),
    ("subject-add", "d", "cn", 1, 4, True),
]


def test_gedit_is_the_mean_of_its_kinds_by_language(drawn, tmp_path):
    items = [
        {"key": f"{k}/{la}/{key}", "task": f"gedit-{la}", "group": k} for k, key, la, *_ in GEDIT
    ]
    read = read_back("gedit", gedit_csv(tmp_path / "scores", GEDIT), drawn("gedit", items))
    english = {"overall": (math.sqrt(36) / 2 + 9) / 2, "semantics": (2 + 9) / 2}
    english |= {"quality": (8.5 + 9) / 2, "overall_intersection": 6, "semantics_intersection": 4}
    assert read["gedit-en"] == pytest.approx(english | {"quality_intersection": 9})
    assert read["gedit-cn"]["overall"] == 2 and read["gedit-cn"]["quality_intersection"] == 4


def test_separators_of_unicode_and_line_breaks_in_prompts_end_no_row(drawn, tmp_path):
    items = [{"key": "color_alter/en/a", "task": "gedit-en", "group": "color_alter"}]
    output = drawn("gedit", items)
    log = output / "gedit.jsonl"
    record = json.loads(log.read_text()) | {"prompt": "do,\u2028it\x85now"}
    log.write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")  # as SampleLog
    folder = gedit_csv(tmp_path / "scores", GEDIT[:1])
    (path,) = folder.glob("*.csv")
    path.write_text(path.read_text().replace("do, it", "do,\u2028\nit"), encoding="utf-8")
    assert read_back("gedit", folder, output)["gedit-en"]["semantics"] == 4


def test_imgedit_is_the_mean_of_three_marks(drawn, tmp_path):
    path = tmp_path / "result.json"
    answer = "Brief reasoning: it is 3: good.\nPrompt Compliance: {}\nVisual: {}\nDetail: {} "
    marks = {"1": (1, 4, 5), "2": (5, 5, 5), "3": (1, 1, 2)}
    path.write_text(json.dumps({key: answer.format(*own) for key, own in marks.items()}))
    kinds = {"1": "add", "2": "add", "3": "style"}
    items = [{"key": key, "task": "imgedit", "group": kind} for key, kind in kinds.items()]
    read = read_back("imgedit", path, drawn("imgedit", items))["imgedit"]
    means = {"overall": (3.33 + 5 + 1.33) / 3, "add": (3.33 + 5) / 2, "style": 1.33}
    assert read == pytest.approx(means)


@pytest.mark.parametrize(
    ("suite", "text", "message"),
    [
        ("geneval", "", "has no score of 3 of the 3 prompts"),
        ("geneval", '{"filename": "x/00000/samples/0000.png", "correct": true}', "of 3 of the 3"),
        ("geneval", '{"a": 1}', "is no results.jsonl of GenEval"),
        ("geneval", "[1]", "no file of the scorer of geneval"),
        ("oneig", "", "cannot be read back"),
        ("dpg", "", "is of the suite geneval"),
    ],
)
def test_results_that_are_incomplete_or_others_are_refused(
    drawn, tmp_path, capsys, suite, text, message
):
    output = drawn("geneval", geneval_items(), GENEVAL_FILES)
    path = tmp_path / "results"
    path.write_text(text)
    before = (output / "scores.json").read_bytes()
    command = ["eval", "model", "--suite", suite, "--results", str(path), "--output", str(output)]
    assert main(command) == 2
    assert message in capsys.readouterr().err
    assert (output / "scores.json").read_bytes() == before


def test_an_answer_that_the_judge_failed_to_give_is_refused(drawn, tmp_path, capsys):
    path = tmp_path / "r.jsonl"
    path.write_text('{"prompt_id": 1, "consistency": 999, "realism": 2, "aesthetic_quality": 2}')
    output = drawn("wise", wise_items(1))
    command = ["eval", "m", "--suite", "wise", "--results", str(path), "--output", str(output)]
    assert main(command) == 2 and "judge it again" in capsys.readouterr().err


def test_results_without_drawings_are_refused(tmp_path, capsys):
    command = ["eval", "m", "--suite", "dpg", "--results", "r.txt", "--output", str(tmp_path)]
    assert main(command) == 2 and "draw first" in capsys.readouterr().err
