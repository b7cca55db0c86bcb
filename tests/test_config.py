"""mini/utils/config.py: how a dataclass becomes a command line. What is refused stands in test_run.py, too."""
import dataclasses
import inspect
from typing import Literal

import pytest

from mini.utils.config import RunConfig, UserError, field_notes, parse, require_positive


@dataclasses.dataclass
class Config(RunConfig):
    # data
    data: str = "tales"             # what to learn from
    # a text of several words above the field,
    # on two lines
    size: int = 3
    # optimisation
    optimizer: Literal["muon", "adamw"] = "muon"    # which rule
    lr: float = 0.1

    fixed = ("size",)

    def __post_init__(self):
        super().__post_init__()
        require_positive(self, "size", "lr")


def test_comments_are_the_help_behind_a_field_or_above_it():
    notes = field_notes(Config)
    assert notes["data"] == ("data", "what to learn from")
    assert notes["size"] == ("data", "a text of several words above the field, on two lines")
    assert notes["optimizer"] == ("optimisation", "which rule")
    assert notes["lr"] == ("optimisation", "")
    assert notes["seed"][0] == "run"                        # of the base class


def test_help_shows_choices_defaults_and_comments(capsys):
    with pytest.raises(SystemExit):
        parse(Config, {}, ["train"], ["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "muon | adamw: which rule (default: 'muon')" in printed
    assert "a text of several words above the field, on two lines (default: 3)" in printed


def test_choices_are_those_of_literal_not_of_the_comment():
    """From the command line and from Python; once they were read off the comment's wording."""
    _, cfg = parse(Config, {}, ["train"], ["--optimizer=adamw"])
    assert cfg.optimizer == "adamw"
    with pytest.raises(UserError, match="invalid choice.*muon"):
        parse(Config, {}, ["train"], ["--optimizer=adam"])
    with pytest.raises(UserError, match="--optimizer=adam.*muon, adamw"):
        Config(optimizer="adam")
    with pytest.raises(UserError, match="--matmul=low"):
        Config(matmul="low")


def test_rules_of_a_config_hold_from_python_and_after_replace():
    with pytest.raises(UserError, match="--size=0 must be at least 1"):
        Config(size=0)
    with pytest.raises(UserError, match="--lr=-0.5 must not be negative"):
        dataclasses.replace(Config(), lr=-0.5)
    with pytest.raises(UserError, match="--size=-2"):
        parse(Config, {}, ["train"], ["--size=-2"])


def test_a_config_without_source_works_without_help_texts(monkeypatch, capsys):
    """Pasted into a notebook, a class may have no source to read comments from."""
    def no_source(cls):
        raise OSError("source code not available")
    monkeypatch.setattr(inspect, "getsource", no_source)
    assert field_notes(Config) == {}
    command, cfg = parse(Config, {"big": dict(size=9)}, ["train"], ["--preset=big", "--lr=0.5"])
    assert (command, cfg.size, cfg.lr, cfg.optimizer) == ("train", 9, 0.5, "muon")
    with pytest.raises(UserError, match="invalid choice"):
        parse(Config, {}, ["train"], ["--optimizer=adam"])
    with pytest.raises(SystemExit):
        parse(Config, {}, ["train"], ["--help"])
    assert "--optimizer" in capsys.readouterr().out


def test_a_config_made_by_exec_works():
    names = {}
    exec("import dataclasses\n"
         "from mini.utils.config import RunConfig\n"
         "@dataclasses.dataclass\n"
         "class Config(RunConfig):\n"
         "    width: int = 8      # how wide\n", names)
    _, cfg = parse(names["Config"], {}, ["train"], ["--width=5"])
    assert cfg.width == 5
