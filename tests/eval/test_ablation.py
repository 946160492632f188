"""The ablation from its command to its tables, at toy size; and the estimates in them."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from benchmarks.ablation import main
from manzano.data_mix.build import build_demo
from manzano.eval.ablation import read_out
from manzano.eval.ablation.arms import ARMS, DRAWN, READ
from manzano.eval.ablation.table import Estimate, difference, summary, tables
from manzano.eval.understanding import MAX_QUESTIONS
from manzano.training import config as configuration

ROOT = Path(__file__).parents[2]
DRAWN_FIGURES = {"drawn_colour", "drawn_shape", "drawn_both"}
READ_FIGURES = {"vqa_exact_match", "reading_exact_match", "chart_relaxed_accuracy"}


def toy_configs(folder: Path, data: Path) -> Path:
    """The toy's tokenizer and llm on a corpus of their own, without a trained ViT."""
    folder.mkdir()
    for stage in ("tokenizer", "llm"):
        text = (ROOT / "configs" / "toy" / f"{stage}.yaml").read_text()
        tree = yaml.safe_load(text.replace("runs/toy/data", str(data)))
        tree.pop("vit_weights", None)
        tree["loop"]["max_steps"] = 2
        (folder / f"{stage}.yaml").write_text(yaml.safe_dump(tree))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[list[str], Path]:
    """The arguments and the output of a finished ablation of one seed, and of another's hybrid."""
    root = tmp_path_factory.mktemp("ablation")
    build_demo(root / "data", image_size=48, limit=6, workers=1)
    configs, output = toy_configs(root / "configs", root / "data"), root / "out"
    argv = ["--config", str(configs), "--output", str(output)]
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        torch.set_num_threads(1)
        patch.setattr(read_out, "PLACES", [(0, 0), (1, 0)])
        patch.setattr(read_out, "UNSEEN", [(1, 0)])
        patch.setattr(read_out, "ROUNDS", 1)
        patch.setattr(read_out, "STEPS", 5)
        for settings in (["--seeds", "0"], ["--seeds", "1", "--arms", "hybrid"]):
            main(argv + settings)
        torch.set_num_threads(threads)
    main([*argv, "--seeds", "0", "1", "--table"])
    return argv, output


def figures(output: Path, arm: str, seed: int = 0) -> dict:
    return json.loads((output / arm / f"seed-{seed}" / "figures.json").read_text())["figures"]


def trained(output: Path, arm: str, stage: str, seed: int = 0) -> dict:
    record = output / arm / f"seed-{seed}" / stage / "export" / "training.yaml"
    return yaml.safe_load(record.read_text())


def test_an_arm_is_measured_in_what_it_was_trained_for(run):
    _, output = run
    both = READ_FIGURES | DRAWN_FIGURES
    expected = {arm: both for arm in ("hybrid", "discrete", "dual")}
    expected |= {"understanding": READ_FIGURES, "generation": DRAWN_FIGURES}
    assert {arm: set(figures(output, arm)) for arm in ARMS} == expected
    for figure in figures(output, "dual").values():
        assert figure["n"] >= 6
        assert 0 <= figure["value"] <= 1 and 0 <= figure["floor"] <= 1
        assert ("ceiling" in figure) == figure["label"].startswith("Drawn")


def test_arms_differ_in_what_they_are_named_for_and_in_nothing_else(run):
    _, output = run

    def differing(stage: str, arm: str, seed: int = 0) -> set[str]:
        pair = trained(output, "hybrid", stage), trained(output, arm, stage, seed)
        return set(configuration.differences(*pair))

    sources = "data.mixture.sources."
    own = {"loop.output"}
    assert differing("tokenizer", "discrete") == own | {"discrete_probability", "tokenizer.kind"}
    assert differing("tokenizer", "dual") == own | {"discrete_probability"}
    assert differing("llm", "discrete") == own | {"tokenizer", "llm.pretrained"}
    assert differing("llm", "understanding") == own | {sources + name for name in DRAWN}
    assert differing("llm", "generation") == own | {sources + name for name in READ}
    assert differing("tokenizer", "hybrid", seed=1) == own | {"loop.seed"}
    steps = trained(output, "dual", "pixels")["loop"]["max_steps"]
    assert steps == 3 * trained(output, "dual", "tokenizer")["loop"]["max_steps"]


def test_the_dual_arm_learns_from_the_ids_of_the_pixels(run):
    _, output = run
    folder = output / "dual" / "seed-0"
    model = load_file(folder / "llm" / "export" / "model.safetensors")
    for name, value in load_file(folder / "pixels" / "export" / "pixels.safetensors").items():
        assert torch.equal(model[f"vision.{name}"], value)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_ablation_given_again_changes_nothing(run):
    argv, output = run
    before = contents(output)
    main([*argv, "--seeds", "0", "--arms", "dual", "understanding"])
    main([*argv, "--seeds", "0", "1", "--table"])
    assert contents(output) == before


def test_the_files_hold_every_run_and_the_tables(run):
    _, output = run
    record = json.loads((output / "ablation.json").read_text())
    words = record["figures"]["reading_exact_match"]
    assert set(words["arms"]) == set(ARMS) - {"generation"}
    own = [figures(output, "hybrid", s)["reading_exact_match"]["value"] for s in (0, 1)]
    assert list(words["arms"]["hybrid"]["values"].values()) == own
    page = (output / "ablation.md").read_text()
    for arm in ARMS.values():
        assert f"| {arm.label} |" in page
    assert "| true ids: dual |" in page


def test_a_run_older_than_its_tokenizer_is_refused(run):
    argv, output = run
    weights = output / "hybrid" / "seed-1" / "tokenizer" / "export" / "model.safetensors"
    weights.touch()
    with pytest.raises(SystemExit, match="delete .*hybrid/seed-1/llm/export to make it again"):
        main([*argv, "--seeds", "1", "--arms", "hybrid"])


def test_nothing_finished_is_said(run, tmp_path):
    argv, _ = run
    with pytest.raises(SystemExit, match="nothing is finished"):
        main([*argv[:2], "--output", str(tmp_path), "--table"])


def records(**arms: list[float]) -> dict:
    figure = {"label": "Words", "floor": 0.0, "n": 1}
    return {
        arm: {seed: {"words": figure | {"value": value}} for seed, value in enumerate(values)}
        for arm, values in arms.items()
    }


def test_an_estimate_has_students_interval():
    found = Estimate.of([1.0, 2.0, 3.0])
    assert (found.mean, found.half_width) == pytest.approx((2.0, 4.303 / 3**0.5))
    assert Estimate.of([0.5]) == Estimate(0.5, None)
    assert Estimate.of([0.25, 0.25]).half_width == 0
    for values in ([], [0.0] * 11):
        with pytest.raises(ValueError, match=f"1 to 10 seeds can be given, got {len(values)}"):
            Estimate.of(values)


def test_differences_are_paired_by_seed():
    """The seeds differ by much more than the arms do, which takes nothing from the difference."""
    found = records(hybrid=[0.1, 0.5, 0.9], dual=[0.2, 0.6, 1.0], discrete=[0.1])
    change = difference(found, "dual", "words")
    assert change is not None and change.beyond_noise
    assert (change.mean, change.half_width) == pytest.approx((0.1, 0.0))
    assert not Estimate.of([0.1, 0.5, 0.9]).beyond_noise
    assert difference(found, "discrete", "words") == Estimate(0.0, None)
    assert summary(found)["words"]["arms"]["dual"]["values"] == {0: 0.2, 1: 0.6, 2: 1.0}
    lines = [line for line in tables(found).splitlines() if line.startswith("| dual")]
    assert lines == ["| dual encoder, both tasks | 3 | 0.600 ± 0.994 |",
                     "| dual encoder, both tasks | 3 | **+0.100 ± 0.000** |"]  # fmt: skip


def test_ceilings_stand_under_their_own_figure_in_any_order_of_the_arms():
    words = {"label": "Words", "floor": 0.0, "n": 1, "value": 0.1}
    drawn = {"label": "Drawn", "floor": 0.0, "n": 1, "value": 0.3, "ceiling": 0.9}
    found = {
        "generation": {0: {"drawn_both": drawn}},
        "hybrid": {0: {"drawn_both": drawn, "words": words}},
    }
    lines = tables(found).splitlines()
    assert lines[0] == "|  | seeds | Drawn | Words |"
    assert "| true ids: hybrid | 1 | 0.900 | - |" in lines


def test_more_seeds_than_an_interval_is_given_for_are_refused_before_training(tmp_path):
    with pytest.raises(SystemExit, match="1 to 10 seeds"):
        main(["--output", str(tmp_path), "--seeds", *map(str, range(11))])


def test_the_floors_of_understanding_are_of_what_is_asked():
    assert set(MAX_QUESTIONS) <= set(READ)
