"""lmms-eval's output becomes a score file; upstream's own runs are imported in tests/harness."""

import json
from pathlib import Path

import pytest

from manzano.cli import main
from manzano.eval.results.compare import compare
from manzano.eval.results.from_lmms_eval import from_lmms_eval, own_score, unasked_device
from manzano.eval.scores import read_scores

STAMP = "20260131_040000"


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "manzano"}')
    return folder


def written(folder: Path, task: str, results: dict, samples: list[dict], **run: object) -> Path:
    """What lmms-eval 0.7.3 writes of one task, in the parts that are read."""
    config = {
        "dataset_path": "hub/Data", "test_split": "test", "num_fewshot": 0, "repeats": 1,
        "generation_kwargs": {"max_new_tokens": 16, "until": ["\n\n"]},
        "lmms_eval_specific_kwargs": {"default": {"post_prompt": "!"}, "post_prompt": "!"},
    }  # fmt: skip
    arguments = {
        "model": "manzano", "model_args": "pretrained=/somewhere,max_tiles=4,device=cpu",
        "limit": None, "offset": 0, "gen_kwargs": "", "torch_seed": 1234, "device": "cpu",
    }  # fmt: skip
    whole = {
        "results": {task: {"alias": task, **results}}, "configs": {task: config},
        "config": arguments, "date": STAMP, "total_evaluation_time_seconds": "4.5",
        "system_instruction_sha": None, "chat_template_sha": None,
    }  # fmt: skip
    inner = folder / "mine"
    inner.mkdir(parents=True)
    path = inner / f"{STAMP}_results.json"
    path.write_text(json.dumps(whole | run))
    lines = [
        {"doc_id": place, "input": f"question {place}", "target": "x", **sample}
        for place, sample in reversed(list(enumerate(samples)))
    ]
    log = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.with_name(f"{STAMP}_samples_{task}.jsonl").write_text(log, encoding="utf-8")
    return path


CHARTS = {
    "relaxed_overall,none": 0.5, "relaxed_overall_stderr,none": 0.25,
    "relaxed_human_split,none": 1.0, "relaxed_overall_stderr_clustered,none": "N/A",
    "submission,none": None, "other,none": [],
}  # fmt: skip
BARS = [{"relaxed_overall": 1.0, "relaxed_human_split": 1.0, "submission": {"answer": "\u2028"}},
        {"relaxed_overall": 0.0, "submission": {"answer": "b"}}] * 2  # fmt: skip


def test_all_that_a_score_file_needs_is_taken_over(tmp_path, model, capsys):
    written(tmp_path / "out", "chartqa", CHARTS, BARS)
    submissions = tmp_path / "out" / "submissions"  # upstream's, beside the results
    submissions.mkdir()
    (submissions / "mmbench_en_dev_static_results.json").write_text("{}")
    output = tmp_path / "scores.json"
    assert main(["eval", "import", str(model), str(tmp_path / "out"), "-o", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    file = read_scores(output)
    assert (file.suite, file.way, file.seed, file.wall_seconds) == (
        "lmms-eval", "lmms-eval", 1234, 4.5,
    )  # fmt: skip
    assert file.started == "2026-01-30T20:00:00+00:00"  # upstream writes Singapore's time
    assert file.model["config"] == {"model_type": "manzano"}
    assert file.environment["versions"].keys() >= {"lmms-eval", "torch"}
    task = file.tasks["chartqa"]
    assert task.settings == {
        "generation_kwargs": {"max_new_tokens": 16, "until": ["\n\n"]}, "num_fewshot": 0,
        "repeats": 1, "filter_list": None, "prompt": {"post_prompt": "!"}, "gen_kwargs": None,
        "system_instruction_sha": None, "chat_template_sha": None, "model_args": {"max_tiles": "4"},
    }  # fmt: skip
    assert (task.n, task.data["dataset"], task.data["split"]) == (4, ["hub/Data", None], "test")
    assert list(task.scores) == ["relaxed_overall", "relaxed_human_split"]
    overall, human = task.scores.values()
    assert (overall.value, overall.n, overall.per_sample["1"]) == (0.5, 4, 0.0)
    assert overall.low < 0.5 < overall.high
    assert human.per_sample == {"0": 1.0, "2": 1.0}
    assert compare(file, file).differences[0].paired


@pytest.mark.parametrize(
    ("task", "measure", "upstream", "samples", "value"),
    [
        ("textvqa_val", "exact_match", 0.65, [0.3, 1], 0.65),
        ("ocrbench", "ocrbench_accuracy", 0.001, [{"score": 1}, {"score": 0}], 0.5),
        ("mathvista_testmini_format", "llm_as_judge_eval", 33.33,
         [{"true_false": x} for x in (True, False, False)], 1 / 3),
        ("mathvista_testmini_format", "llm_as_judge_eval", None, [{"true_false": False}] * 2, 0),
        ("seedbench", "seed_all", 0.5,
         [{"pred": "a ", "answer": "A"}, {"pred": "B", "answer": "A"}], 0.5),
    ],
)  # fmt: skip
def test_a_mean_over_samples_has_them_and_an_interval(
    tmp_path, model, task, measure, upstream, samples, value
):
    lines = [{measure: sample} for sample in samples]
    path = written(tmp_path / "out", task, {f"{measure},none": upstream}, lines)
    (scores,) = from_lmms_eval(path, model).tasks.values()
    score = scores.scores[measure]
    assert score.value == pytest.approx(value)
    assert sorted(score.per_sample) == [str(place) for place in range(len(samples))]
    assert score.low is not None


def test_a_task_has_the_name_that_the_light_path_gives_it(tmp_path, model):
    path = written(tmp_path / "out", "textvqa_val", {"exact_match,none": 1.0}, [{"exact_match": 1}])
    assert list(from_lmms_eval(path, model).tasks) == ["textvqa"]


@pytest.mark.parametrize(
    ("task", "upstream", "samples", "value"),
    [
        ("mmbench_en_dev_static", 50.0, [{"prediction": "A", "answer": "A"}] * 2, 0.5),
        ("other", 0.9, [1.0, 0.0], 0.9),  # not the mean
    ],
)
def test_what_is_no_mean_over_samples_keeps_upstreams_value_without_an_interval(
    tmp_path, model, task, upstream, samples, value
):
    lines = [{"measure": sample} for sample in samples]
    path = written(tmp_path / "out", task, {"measure,none": upstream}, lines)
    score = from_lmms_eval(path, model).tasks[task].scores["measure"]
    assert (score.value, score.low, score.per_sample) == (value, None, {})


def test_two_filters_of_one_metric_stand_side_by_side_without_samples(tmp_path, model):
    results = {"exact_match,strict": 0.0, "exact_match,loose": 1.0}
    path = written(tmp_path / "out", "x", results, [{"exact_match": 0.0}, {"exact_match": 1.0}])
    log = path.with_name(f"{STAMP}_samples_x.jsonl")
    log.write_text(log.read_text().replace('"doc_id": 1', '"doc_id": 0'))
    scores = from_lmms_eval(path, model).tasks["x"].scores
    assert {name: score.value for name, score in scores.items()} == {
        "exact_match": 0.0, "exact_match,loose": 1.0,
    }  # fmt: skip
    assert all(score.low is None for score in scores.values())


def test_a_run_through_the_server_says_so(tmp_path, model):
    path = written(tmp_path / "out", "chartqa", CHARTS, BARS)
    run = json.loads(path.read_text())
    run["config"] |= {"model": "async_openai", "model_args": {"base_url": "http://x", "seed": 1}}
    path.write_text(json.dumps(run))
    file = from_lmms_eval(path, model)
    assert file.way == "server"
    assert file.tasks["chartqa"].settings["model_args"] == {"seed": 1}


def test_what_cannot_be_imported_is_refused(tmp_path, model, monkeypatch):
    with pytest.raises(ValueError, match="must hold one DATE_results.json of lmms-eval, found: no"):
        from_lmms_eval(tmp_path, model)
    path = written(tmp_path / "a", "chartqa", CHARTS, BARS)
    written(tmp_path / "b", "chartqa", CHARTS, BARS)
    with pytest.raises(ValueError, match="found: .*a/mine/.*, .*b/mine/"):
        from_lmms_eval(tmp_path, model)
    with pytest.raises(FileNotFoundError, match="is no Manzano folder"):
        from_lmms_eval(path, tmp_path)
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {"config": whole["config"] | {"torch_seed": None}}))
    with pytest.raises(ValueError, match=r"is no results file of lmms-eval 0\.7"):
        from_lmms_eval(path, model)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    arguments = whole["config"] | {"model_args": "device=cuda:0"}
    path.write_text(json.dumps(whole | {"config": arguments}))
    with pytest.raises(ValueError, match="on cuda:0, which is not here"):
        from_lmms_eval(path, model)
    path.write_text(json.dumps(whole))
    path.with_name(f"{STAMP}_samples_chartqa.jsonl").unlink()
    with pytest.raises(ValueError, match="with --log_samples"):
        from_lmms_eval(path, model)


def test_a_run_that_asked_for_no_device_was_on_the_gpu_where_there_is_one(monkeypatch):
    for gpu, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr("torch.cuda.is_available", lambda gpu=gpu: gpu)
        assert (unasked_device("lmms-eval"), unasked_device("server")) == (device, "cpu")


@pytest.mark.parametrize("value", ["text", None, {"answer": 1}, {"score": "high"}])
def test_a_sample_that_does_not_tell_its_score_has_none(value):
    assert own_score(value) is None
