"""The model class: found, strict about its arguments, unharmed by one bad sample."""

import io
import json
import logging
import shutil
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from PIL import Image

from manzano.answering import AnswerSettings, Message
from manzano.eval.harness.version import check_version
from manzano.llm.vocabulary import SPECIAL_TOKENS
from manzano.pipeline import ManzanoPipeline
from tests.harness.conftest import evaluate
from tests.harness.local_data import reading_tasks
from tests.tiny import drawing


def chat(folder, **arguments):
    from lmms_eval.models import get_model

    return get_model("manzano")(pretrained=str(folder), device="cpu", **arguments)


def test_lmms_eval_finds_the_model_by_its_name():
    from lmms_eval.models import get_model, get_model_manifest

    [point] = entry_points(group="lmms_eval.models", name="manzano")
    assert point.load()() == get_model_manifest("manzano")
    assert get_model("manzano").is_simple is False


def test_the_manifest_loads_nothing_of_ours_besides_itself():
    code = (
        "import sys, lmms_eval.models.registry_v2; before = set(sys.modules);"
        "from manzano.eval.harness.manifest import manifest; manifest();"
        "print(sorted(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # lmms-eval has read the entry point itself.
    assert run.stdout.splitlines()[-1] == "[]"
    code = "import sys, lmms_eval.models; print('manzano.pipeline' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "False"


def test_another_series_of_lmms_eval_is_refused():
    check_version()
    check_version("0.7.99")
    for other in ("0.6.1", "0.8.0", "1.0", "0.70"):
        with pytest.raises(ImportError, match=rf"lmms-eval {other} .* tested with 0\.7\.\*"):
            check_version(other)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mode": "paint"}, "mode must be one of understanding, draw, edit, got 'paint'"),
        ({"max_tile": 4}, "does not know the model_args max_tile; it knows .*max_tiles"),
        ({"steps": 4}, "mode=understanding does not know the model_args steps"),
        ({"mode": "draw", "max_tiles": 4}, "mode=draw .* max_tiles; it knows .*output_dir, seed"),
        ({"dtype": "int8"}, "dtype must be one of float32"),
        ({"batch_size": "auto"}, "batch_size must be a whole number from 1 on, got 'auto'"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1 on, got 0"),
    ],
)
def test_wrong_arguments_are_named(lettered, arguments, said):
    with pytest.raises(ValueError, match=said):
        chat(lettered, **arguments)


def test_a_folder_without_a_decoder_reads_and_cannot_draw(lettered, tmp_path):
    folder = shutil.copytree(lettered, tmp_path / "reader")
    shutil.rmtree(folder / "transformer")
    assert chat(folder).worker.model.config.model_type == "manzano"
    with pytest.raises(FileNotFoundError, match="reads but cannot draw, it has no decoder"):
        chat(folder, mode="draw")
    with pytest.raises(FileNotFoundError, match="no Manzano model in .*nowhere"):
        chat(tmp_path / "nowhere")


def huge_png() -> bytes:
    """200 megapixels in some kilobytes."""
    file = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(file, "PNG")
    return file.getvalue()


def test_bad_samples_answer_nothing_and_harm_no_other(lettered, twelve, tmp_path, caplog):
    chartqa = reading_tasks()[0]
    good = chartqa.asked[0].row
    bad = {
        1: {"image": {"bytes": b"no picture", "path": None}},
        2: {"image": None},
        4: {"question": "long " * 1000},
        5: {"question": f"What is {SPECIAL_TOKENS['image']}?"},
        6: {"image": {"bytes": huge_png(), "path": None}},
    }
    rows = [type(chartqa.asked[0])(row=good | bad.get(i, {}), prompt=()) for i in range(8)]
    type(chartqa)(**{**vars(chartqa), "asked": rows}).write(tmp_path)
    with caplog.at_level(logging.WARNING):
        outcome = evaluate(
            tmp_path, "chartqa", f"pretrained={lettered}", tmp_path / "out", batch_size=3
        )
    first = twelve.answers["chartqa"][0]
    assert outcome.answers("chartqa") == ["" if i in bad else first for i in range(8)]
    assert "5 of 8 samples could not be answered" in caplog.text
    for reason in ("UnidentifiedImageError", "more than the 1024", "special tokens"):
        assert reason in caplog.text


def test_where_nothing_can_be_answered_there_is_no_score(lettered, tmp_path):
    chartqa = reading_tasks()[0]
    rows = [type(a)(row=a.row | {"image": None}, prompt=()) for a in chartqa.asked]
    type(chartqa)(**{**vars(chartqa), "asked": rows}).write(tmp_path)
    with pytest.raises(ValueError, match="4 of 4 samples could not be answered"):
        evaluate(tmp_path, "chartqa", f"pretrained={lettered}", tmp_path / "out")


ROUNDS_YAML = """
task: manzano_rounds
dataset_path: lmms-lab-encoder/ChartQA
test_split: test
output_type: generate_until_multi_round
doc_to_visual: !function rounds.visual
doc_to_text: !function rounds.text
doc_to_target: answer
generation_kwargs: {max_new_tokens: 4}
process_results: !function rounds.score
metric_list:
  - {metric: rounds, aggregation: mean, higher_is_better: true}
"""
ROUNDS_PY = """
def visual(doc):
    return [doc["image"].convert("RGB")]

def text(doc, lmms_eval_specific_kwargs=None, round_idx=None, previous_output=None,
         previous_round_info=None):
    if round_idx is None:
        return doc["question"]
    more = f"You said {previous_output[-1]}. {doc['question']}"
    return visual(doc), more, round_idx == 3, previous_output, None

def score(doc, results):
    return {"rounds": len(results[0])}
"""


def test_rounds_go_on_until_the_task_ends_them(lettered, twelve, tmp_path):
    from lmms_eval.tasks import TaskManager

    (tmp_path / "rounds.yaml").write_text(ROUNDS_YAML)
    (tmp_path / "rounds.py").write_text(ROUNDS_PY)
    outcome = evaluate(
        twelve.folder, "manzano_rounds", f"pretrained={lettered}", tmp_path / "out",
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
    )  # fmt: skip
    assert outcome.score("manzano_rounds", "rounds") == 3
    pipeline = ManzanoPipeline.from_pretrained(lettered)
    settings = AnswerSettings(max_new_tokens=4, stop=("\n\n",))
    asked = twelve.tasks["chartqa"].asked[0].row
    said: list[str] = []
    for _ in range(3):
        words = f"You said {said[-1]}. {asked['question']}" if said else asked["question"]
        said += pipeline.chat_batch([[Message("user", (asked["image"], words))]], settings)
    assert outcome.answers("manzano_rounds")[0] == said


def test_drawings_are_those_of_the_pipeline(pipeline_folder, tmp_path):
    from manzano.eval.harness.workers import Sample

    worker = chat(pipeline_folder, mode="draw", output_dir=str(tmp_path), seed=3, steps=2).worker
    asked = [("a cube", 0, 0), ("a cone", 7, 0), ("a cone", 7, 1)]
    said = worker.batch(
        [
            Sample(conversation=[Message("user", (words,))], task="t", doc_id=i, number=n)
            for words, i, n in asked
        ],
        None,
    )
    names = ["t_0_0.png", "t_7_0.png", "t_7_1.png"]
    assert [json.loads(one) for one in said] == [
        {"text": "", "images": [str(tmp_path / name)]} for name in names
    ]
    pipeline = ManzanoPipeline.from_pretrained(pipeline_folder)
    drawn = pipeline.draw_batch(
        [words for words, _, _ in asked], seed=[3, 10, 1_000_010], settings=worker.drawing
    )
    for name, picture in zip(names, drawn, strict=True):
        assert Image.open(tmp_path / name).tobytes() == picture.tobytes()


@pytest.mark.parametrize(
    ("mode", "count", "said"),
    [("draw", 1, "draw takes none; say mode=edit"), ("edit", 0, "edit takes one")],
)
def test_another_number_of_pictures_than_the_mode_takes(
    pipeline_folder, tmp_path, mode, count, said
):
    from manzano.eval.harness.workers import Sample

    worker = chat(pipeline_folder, mode=mode, output_dir=str(tmp_path)).worker
    content = (*[drawing()] * count, "a cube")
    sample = Sample(conversation=[Message("user", content)], task="t", doc_id=0)
    with pytest.raises(ValueError, match=said):
        worker.batch([sample], None)
