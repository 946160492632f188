"""What a person who mistypes is told."""

import pytest
from toy_stage import Config

from manzano.training import config as configuration
from manzano.training import run
from manzano.training.command_line import parse
from manzano.training.config import LoopConfig
from manzano.training.stages import load_stage

VALID = "loop: {output: runs/x, max_steps: 10}\noptim: {lr: 3e-4, lr_multipliers: {head.: 3.0}}\n"


@pytest.fixture
def config_file(tmp_path):
    def write(text: str, name: str = "run.yaml") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def error(capsys, *arguments: str) -> str:
    """The first line on stderr of a command line that ends with code 2."""
    with pytest.raises(SystemExit) as stopped:
        parse(Config, arguments, prog="train.py toy")
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()[0]


def test_files_merge_from_left_to_right_and_flags_come_last(config_file):
    later = config_file("optim: {lr: 1e-3, warmup_steps: 5}\n", "later.yaml")
    arguments = ["--config", config_file(VALID), "--config", later, "--loop.max_steps", "20"]
    config = parse(Config, arguments)
    assert (config.optim.lr, config.optim.warmup_steps, config.loop.max_steps) == (1e-3, 5, 20)
    assert config.optim.lr_multipliers == {"head.": 3.0}
    assert isinstance(config.loop, LoopConfig)


def test_the_resolved_configuration_parses_back_to_an_equal_object(config_file, tmp_path):
    config = parse(Config, ["--config", config_file(VALID), "--optim.betas=[0.8,0.9]"])
    configuration.save(config, tmp_path / "config.yaml")
    assert parse(Config, ["--config", str(tmp_path / "config.yaml")]) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {lrr: 1}", "has an unknown key 'optim.lrr'; did you mean 'optim.lr'?"),
        ("learning_rate: 1", "has an unknown key 'learning_rate'; did you mean"),
        ("warmup_steps: 1", "unknown key 'warmup_steps'; did you mean 'optim.warmup_steps'?"),
        ("optim: {lr: fast}", "optim.lr must be float, got fast."),
        ("optim: {lr: -1}", "optim.lr is -1.0; it must be positive."),
        ("loop: {precision: fp16}", "loop.precision must be Literal['fp32', 'bf16'], got fp16."),
        ("optim:\n  lr: 1\n lrr: 2", ", line 3 is not valid YAML"),
        ("- 1", "must hold `key: value` lines, got list."),
    ],
)
def test_a_wrong_file_is_explained_in_one_sentence(capsys, config_file, text, message):
    first = config_file(VALID)
    assert message in error(capsys, "--config", first, "--config", config_file(text, "wrong.yaml"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optim.lrr", "1"], "unknown option '--optim.lrr'; did you mean '--optim.lr'?"),
        (["--lr=1"], "unknown option '--lr'; did you mean '--optim.lr'?"),
        (["optim.lr=1"], "overrides begin with two dashes: --optim.lr=1"),
        (["--optim.lr", "fast"], "optim.lr must be float, got fast."),
        (["--loop.max_steps=0"], "loop.max_steps is 0; it must be at least 1."),
        (["--config", "absent.yaml"], "cannot read the config file absent.yaml"),
    ],
)
def test_a_wrong_flag_is_explained_in_one_sentence(capsys, config_file, arguments, message):
    assert message in error(capsys, "--config", config_file(VALID), *arguments)


def test_a_missing_required_key_is_named(capsys):
    assert "required: loop.max_steps" in error(capsys, "--loop.output=x")


def test_an_unknown_stage_is_answered_with_the_nearest(capsys):
    with pytest.raises(SystemExit, match="2"):
        run("visoin", [])
    assert "unknown stage 'visoin'; did you mean 'vision'?" in capsys.readouterr().err


def test_help_shows_what_stands_under_the_fields(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse(Config, ["--help"])
    assert "Steps of linear warm-up." in capsys.readouterr().out


def test_a_setting_inside_a_dictionary_has_the_type_that_it_has_in_a_file():
    config_class, _ = load_stage("llm")
    flags = ["--llm.hidden_size", "64", "--llm.rms_norm_eps", "1e-5", "--llm.use_cache", "false"]
    config = parse(config_class, ["--config", "configs/llm/1b.yaml", *flags])
    assert config.llm["model_type"] == "qwen3"
    assert config.llm["hidden_size"] == 64
    assert (config.llm["rms_norm_eps"], config.llm["use_cache"]) == (1e-5, False)
