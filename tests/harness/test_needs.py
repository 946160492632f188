"""What tasks need is asked for before the work: judges, pictures, the mode."""

import json
from importlib import import_module
from pathlib import Path

import datasets
import pytest
from PIL import Image

from manzano.drawing import DrawingSettings
from manzano.eval.harness.needs import MODES, NEEDS
from manzano.pipeline import ManzanoPipeline
from tests.harness.conftest import evaluate
from tests.harness.local_data import PICTURE, encoded
from tests.tiny import drawing

EDIT = "mode=edit,steps=2,seed=5"


def write(folder: Path, dataset: str, split: str, rows: list[dict], column: str) -> None:
    home = folder / dataset / "data"
    home.mkdir(parents=True)
    table = datasets.Dataset.from_list([encoded(row) for row in rows])
    table.cast_column(column, PICTURE).to_parquet(str(home / f"{split}-00000-of-00001.parquet"))


@pytest.fixture(scope="module")
def edits(tmp_path_factory) -> Path:
    """GEdit-Bench and ImgEdit in their columns; the last instruction of each is too long."""
    folder = tmp_path_factory.mktemp("edits")
    words = ["add a cube", "remove it", "long " * 100]
    gedit = [
        {
            "task_type": "subject-add", "key": f"k{i}", "instruction": instruction,
            "instruction_language": "cn" if i % 2 else "en", "input_image": drawing(i),
            "Intersection_exist": True,
        }
        for i, instruction in enumerate(words)
    ]  # fmt: skip
    imgedit = [
        {"key": str(i), "prompt": instruction, "edit_type": "add", "image": drawing(i)}
        for i, instruction in enumerate(words)
    ]
    write(folder, "stepfun-ai/GEdit-Bench", "train", gedit, "input_image")
    write(folder, "kcz358/imgedit", "test", imgedit, "image")
    return folder


def test_edits_are_judged_and_the_pictures_are_those_of_the_pipeline(
    edits, pipeline_folder, tmp_path
):
    model = f"pretrained={pipeline_folder},{EDIT},output_dir={tmp_path}/p"
    tasks = ["gedit_bench", "imgedit"]
    outcome = evaluate(edits, ",".join(tasks), model, tmp_path / "out", process_with_media=True)
    en, cn = (f"gedit_bench_{language}_fullset_overall" for language in ("en", "cn"))
    assert outcome.score("gedit_bench", en) == pytest.approx((4 + 0) / 2)
    assert outcome.score("gedit_bench", cn) == pytest.approx(4)
    assert outcome.score("imgedit", "imgedit_avg_score") == pytest.approx((3 + 3 + 0) / 3)
    pipeline = ManzanoPipeline.from_pretrained(pipeline_folder)
    for task in tasks:
        paths = [tmp_path / "p" / f"{task}_{i}_0.png" for i in range(2)]
        assert outcome.answers(task) == [
            *(json.dumps({"text": "", "images": [str(path)]}) for path in paths), ""
        ]  # fmt: skip
        for i, words in enumerate(["add a cube", "remove it"]):
            settings = DrawingSettings(num_steps=2)
            edited = pipeline.edit(drawing(i), words, seed=5 + i, settings=settings)
            assert Image.open(paths[i]).tobytes() == edited.tobytes()


@pytest.mark.parametrize(
    ("task", "mode", "media", "key", "said"),
    [
        ("gedit_bench", "edit", True, "VIESCORE_API_KEY", "VIESCORE_API_BASE for a judge of your"),
        ("imgedit", "edit", True, "IMGEDIT_API_KEY", "IMGEDIT_BASE_URL for a judge of your own"),
        ("imgedit", "edit", False, None, "compares pictures: give --process_with_media"),
        ("imgedit", "draw", True, None, "imgedit needs --model_args ...,mode=edit, got mode=draw"),
    ],
)
def test_edits_without_what_scores_them(
    edits, pipeline_folder, tmp_path, monkeypatch, task, mode, media, key, said
):
    if key:
        monkeypatch.delenv(key)
    model = f"pretrained={pipeline_folder},mode={mode},output_dir={tmp_path}/p"
    with pytest.raises(ValueError, match=said):
        evaluate(edits, task, model, tmp_path / "out", process_with_media=media)
    assert list((tmp_path / "p").iterdir()) == []


def test_pictures_alone_need_no_judge(edits, pipeline_folder, tmp_path, monkeypatch):
    monkeypatch.delenv("IMGEDIT_API_KEY")
    model = f"pretrained={pipeline_folder},{EDIT},output_dir={tmp_path}/p"
    evaluate(edits, "imgedit", model, tmp_path / "out", predict_only=True)
    names = sorted(path.name for path in (tmp_path / "p").iterdir())
    assert names == ["imgedit_0_0.png", "imgedit_1_0.png"]


def test_mathvista_without_a_judge_says_so_before_the_work(twelve, lettered, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ValueError, match="is scored by a judge, and none is configured"):
        evaluate(twelve.folder, "mathvista_testmini_format", f"pretrained={lettered}", tmp_path)


def test_mmbench_without_a_judge_points_to_the_task_that_needs_none(
    twelve, lettered, tmp_path, monkeypatch
):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ValueError, match="or run mmbench_en_dev_static, which needs no judge"):
        evaluate(twelve.folder, "mmbench_en_dev", f"pretrained={lettered}", tmp_path)


def test_tasks_are_known_by_functions_that_lmms_eval_has():
    modules = ["mathvista", "gedit_bench", "imgedit", "WISE"]
    names = {"mmbench_aggregate_dev_results_eval": "mmbench.en_utils"} | {
        f"{module.lower()}_{what}": f"{module}.utils"
        for module in modules
        for what in ("process_results", "doc_to_text")
    }
    assert {*NEEDS, *MODES} <= set(names)
    for function in [*NEEDS, *MODES]:
        assert callable(getattr(import_module(f"lmms_eval.tasks.{names[function]}"), function))
