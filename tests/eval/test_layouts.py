"""The folders are what the official scorers read: their globs, patterns and crops, done here."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manzano.cli import main
from manzano.data_mix.images import load_image
from manzano.eval.commands import model_name
from manzano.eval.pictures.layouts.layout import cells, grid
from manzano.eval.pictures.layouts.registry import LAYOUTS, read_items
from tests import benchmarks
from tests.tiny import drawing

EVAL = ["--steps", "1", "--batch-size", "8"]


def evaluate(model: Path, suite: str, prompts: Path, output: Path, *more: str) -> Path:
    """Runs a suite and returns the folder for its scorer."""
    command = ["eval", str(model), "--suite", suite, "--prompts", str(prompts)]
    assert main([*command, "--output", str(output), *EVAL, *more]) == 0
    return output / suite


@pytest.fixture(scope="module")
def laid_out(pipeline_folder, tmp_path_factory):
    """`laid_out(suite)`: the prompts and the folder of a suite, drawn once; the model's name."""
    done = {}
    name = pipeline_folder.resolve().name

    def folders(suite: str):
        if suite not in done:
            base = tmp_path_factory.mktemp(suite)
            prompts = benchmarks.PROMPTS[suite](base)
            done[suite] = prompts, evaluate(pipeline_folder, suite, prompts, base / "out"), name
        return done[suite]

    return folders


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def test_geneval_by_the_rules_of_evaluate_images(laid_out):
    prompts, folder, _ = laid_out("geneval")
    lines = prompts.read_text().splitlines()
    read = {}
    for name in os.listdir(folder):
        assert name.isdigit() and (folder / name).is_dir()
        with (folder / name / "metadata.jsonl").open() as file:
            metadata = json.load(file)  # the whole file is one object
        assert (folder / name / "metadata.jsonl").read_text() == lines[int(name)] + "\n"
        pictures = os.listdir(folder / name / "samples")
        assert all(re.match(r"\d+\.png", picture) for picture in pictures)
        assert {opened(folder / name / "samples" / p).size for p in pictures} == {(48, 48)}
        read[name] = (metadata["prompt"], sorted(pictures))
    four = ["0000.png", "0001.png", "0002.png", "0003.png"]
    assert read == {f"{i:05d}": (words, four) for i, words in enumerate(benchmarks.WORDS)}


def test_dpg_by_the_rules_of_compute_dpg_bench(laid_out):
    prompts, folder, _ = laid_out("dpg")
    keys, side = [], 48
    for name in os.listdir(folder):
        keys.append(os.path.basename(folder / name).split(".")[0])
        image = opened(folder / name)
        assert image.size == (2 * side, 2 * side)
        corners = [(0, 0), (side, 0), (0, side), (side, side)]
        crops = [image.crop((x, y, x + side, y + side)).tobytes() for x, y in corners]
        assert len(set(crops)) == 4  # four drawings, not one
    assert sorted(keys) == sorted(path.stem for path in prompts.iterdir())


def test_wise_by_the_rules_of_vllm_eval(laid_out):
    prompts, folder, _ = laid_out("wise")
    wanted = {
        r["prompt_id"] for path in prompts.glob("*.json") for r in json.loads(path.read_text())
    }
    assert set(os.listdir(folder)) == {f"{prompt_id}.png" for prompt_id in wanted}


def test_t2i_compbench_by_the_rules_of_its_scorers(laid_out):
    prompts, folder, _ = laid_out("t2i-compbench")
    assert sorted(os.listdir(folder)) == ["3d_spatial", "color"]
    for category in os.listdir(folder):
        names = os.listdir(folder / category / "samples")
        by_blip = sorted(names, key=lambda x: int(x.split("_")[-1].split(".")[0]))
        by_unidet = sorted(names, key=lambda x: int(x.split("_")[1].split(".")[0]))
        by_numeracy = [int(name.split(".png")[0].split("_")[1]) for name in by_blip]
        assert by_blip == by_unidet and by_numeracy == list(range(len(names)))
        lines = (prompts / f"{category}_val.txt").read_text().splitlines()
        told = [name.split("_")[0] for name in by_blip]
        assert told == [line.split("\t")[0] for line in lines for _ in range(10)]


def test_oneig_by_the_rules_of_its_scorers(laid_out):
    _, folder, model = laid_out("oneig")
    for category, number in (("text", "000"), ("object", "000"), ("anime", "017")):
        paths = list((folder / category / model).glob(f"{number}*"))  # smart_glob(... id + '*')
        assert [path.name for path in paths] == [f"{number}.webp"]
        image = opened(paths[0])
        assert image.mode == "RGB" and image.size == (96, 96)  # a black pixel is (0, 0, 0) there
    names = [path.name[:3] for path in (folder / "anime" / model).iterdir()]
    assert names == ["017"]  # style_score looks each file's first letters up


def test_gedit_by_the_rules_of_run_gedit_score(laid_out):
    _, folder, model = laid_out("gedit")
    for index, (task, key, _, language, size, _) in enumerate(benchmarks.GEDIT_ROWS):
        path = folder / model / "fullset" / task / language
        source, edited = opened(path / f"{key}_SRCIMG.png"), opened(path / f"{key}.png")
        assert source.size == edited.size == size
        assert source.tobytes() == drawing(index, size).tobytes()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 2 * len(benchmarks.GEDIT_ROWS)


def test_imgedit_by_the_rules_of_basic_bench(laid_out):
    prompts, folder, _ = laid_out("imgedit")
    for key, item in json.loads(prompts.read_text()).items():
        assert opened(folder / f"{key}.png").size == opened(prompts.parent / item["id"]).size
    assert len(os.listdir(folder)) == 3


@pytest.mark.parametrize("suite", benchmarks.PROMPTS)
def test_the_folder_holds_nothing_but_the_layout(laid_out, suite):
    _, folder, _ = laid_out(suite)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    log = (folder.parent / f"{suite}.jsonl").read_text().splitlines()
    assert files == {name for line in log for name in json.loads(line)["files"]}


def test_a_model_in_a_folder_model_has_the_name_of_the_one_around():
    assert model_name("runs/demo/model") == model_name("runs/demo") == "demo"


@pytest.mark.parametrize("prompts", [benchmarks.gedit_arrow, benchmarks.gedit_json])
def test_gedit_is_read_the_same_from_arrow_and_json(tmp_path, prompts):
    def read(path):
        layout = LAYOUTS["gedit"](prompts=path, folder=tmp_path, model="m")
        pixels = [layout_picture(item) for item in read_items(layout)]
        return [(i.key, i.prompt, i.task, i.group, i.facts) for i in read_items(layout)], pixels

    assert read(prompts(tmp_path)) == read(benchmarks.gedit(tmp_path))


def layout_picture(item) -> bytes:
    source = item.image()
    return source if isinstance(source, bytes) else Path(source).read_bytes()


def test_wise_is_read_from_one_file_and_in_its_first_version(tmp_path):
    one = benchmarks.wise(tmp_path) / "merge.json"
    first = benchmarks.wise(tmp_path, names=("",))
    for prompts in (one, first):
        layout = LAYOUTS["wise"](prompts=prompts, folder=tmp_path, model="m")
        assert [item.key for item in read_items(layout)] == ["1", "401", "1000"]
        verified = prompts == one
        assert ("eval_qwen.sh" in layout.scorer(48, 48)) == verified
        assert ("gpt_eval.py" in layout.scorer(48, 48)) == (not verified)


def test_a_grid_goes_row_by_row():
    pictures = [Image.new("RGB", (3, 2), (value, 0, 0)) for value in (1, 2, 3, 4)]
    red = np.asarray(grid(pictures))[..., 0]
    assert red.tolist() == [[1, 1, 1, 2, 2, 2]] * 2 + [[3, 3, 3, 4, 4, 4]] * 2
    assert [part.tobytes() for part in cells(grid(pictures))] == [p.tobytes() for p in pictures]


@pytest.mark.parametrize("suite", benchmarks.PROMPTS)
def test_the_scorers_command_names_the_folder(suite, tmp_path):
    prompts = benchmarks.PROMPTS[suite](tmp_path)
    folder = tmp_path / "with space" / suite
    layout = LAYOUTS[suite](prompts=prompts, folder=folder, model="tiny")
    assert f"'{folder}" in layout.scorer(72, 72)


@pytest.mark.parametrize("suite", benchmarks.PROMPTS)
def test_prompts_of_another_benchmark_are_recognised_and_named(suite, tmp_path):
    for other in benchmarks.PROMPTS:
        if other == suite:
            continue
        base = tmp_path / other
        base.mkdir()
        layout = LAYOUTS[suite](prompts=benchmarks.PROMPTS[other](base), folder=base, model="m")
        with pytest.raises(ValueError, match=f"prompts of {other}, not of {suite}"):
            read_items(layout)


@pytest.mark.parametrize(
    ("suite", "name", "text", "message"),
    [
        ("geneval", "x.jsonl", "{", "is no JSON"),
        ("geneval", "x.jsonl", "", "holds no prompts of geneval"),
        ("geneval", "x.txt", "a heart", "holds no prompts of geneval"),
        ("geneval", "x.jsonl", '{"tag":"a","include":[],"prompt":"b"}\n{"tag":"a"}', "prompt 2"),
        ("wise", "x.json", "[]", "holds no prompts of wise"),
        ("wise", "x.json", '[{"prompt_id": "a", "Prompt": "b"}]', "must be an integer"),
        ("wise", "x.json", '[{"prompt_id": 1, "Prompt": "b"},{"prompt_id": 1}]', "more than once"),
        ("oneig", "x.csv", "category,id,prompt_en\nText,000,a", "has the category 'Text'"),
        ("oneig", "x.csv", "category,id,prompt_en\nPortrait,1,a", "three digits"),
        ("oneig", "x.csv", "category,id,prompt_en\nPortrait\n", "three digits"),
        ("oneig", "x.csv", "category,id,prompt_en\n", "has no prompts"),
        ("t2i-compbench", "x.txt", "a heart", "holds no prompts of t2i-compbench"),
        ("t2i-compbench", "color_val.txt", "\n", "has no prompts"),
        ("imgedit", "x.json", '{"1":{"id":"a","prompt":"b","edit_type":"c"}}', "give the folder"),
        ("imgedit", "x.json", '{"1":{"id":"a","prompt":"b","edit_type":"c"},"2":{}}', "lacks id"),
        ("gedit", "x.parquet", "no table", "no parquet file"),
        ("gedit", "x.arrow", "no table", "no arrow file"),
    ],
)
def test_damaged_prompts_are_refused(tmp_path, suite, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_items(LAYOUTS[suite](prompts=path, folder=tmp_path, model="m"))


@pytest.mark.parametrize("key", ["../x", "a/b", ".hidden", "", "k" * 300, 7])
def test_keys_that_lead_out_of_the_folder_are_refused(tmp_path, key):
    path = benchmarks.gedit_json(tmp_path)
    rows = json.loads(path.read_text())
    rows[0]["key"] = key
    path.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="name a file"):
        read_items(LAYOUTS["gedit"](prompts=path, folder=tmp_path, model="m"))


def test_an_edit_whose_picture_is_no_path_spares_the_others(tmp_path):
    path = benchmarks.gedit_json(tmp_path)
    rows = json.loads(path.read_text())
    rows[0]["input_image"] = None
    path.write_text(json.dumps(rows))
    layout = LAYOUTS["gedit"](prompts=path, folder=tmp_path, model="m")
    first, second, *_ = read_items(layout)
    assert first.image and second.image and layout.data_files()
    with pytest.raises(ValueError, match="cannot read"):
        load_image(first.image())
    assert load_image(second.image()).mode == "RGB"


def test_a_dpg_name_that_the_scorer_would_cut_is_refused(tmp_path):
    path = benchmarks.dpg(tmp_path)
    (path / "v1.5.txt").write_text("a heart")
    with pytest.raises(ValueError, match="up to its first dot"):
        read_items(LAYOUTS["dpg"](prompts=path, folder=tmp_path, model="m"))
