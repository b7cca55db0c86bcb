"""What every script must do alike: the same files, the same flags, the same way to stop, to go on and to refuse.

Each script has an entry in SCRIPTS: settings with which it trains in a moment, and the few things that differ. All
tests here run for every entry; what only one script promises is tested in its own file. Whoever adds a script adds
an entry, and has these tests for nothing.
"""
import contextlib
import csv
import dataclasses
import functools
import importlib
import io
import itertools
import json
import math
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import torch

from mini.data.images import captions, domains, image_sets
from mini.data.speech import recordings, scores, warping
from mini.data.text import passages, reviews
from mini.studies import few_labels
from mini.studies import llama as llama_study
from mini.studies import speech as speech_study
from mini.utils import config, judge
from mini.utils.config import UserError
from mini.utils.png import read_png
from mini.utils.run import Run
from tests import elsewhere
from tests.helpers import (close, free_port, labelled_texts_and_a_base, paragraphs, processes,
                           refused_by)

STEPS, STOP = 5, 3                      # a whole run; and where another is stopped: between two evaluations
COMMON = dict(steps=STEPS, eval_every=2, sample_every=2, log_every=1, device="cpu", matmul="highest")
COMMANDS = ("train", "sample", "evaluate")
ROOT = Path(__file__).parent.parent


# ---- the scripts

@dataclasses.dataclass
class Script:
    """What these tests have to know of a script; the defaults are what most have in common."""
    columns: str                        # of log.csv, behind step and seconds
    settings: dict                      # fields of a Config that trains in a moment
    fixed: dict                         # fields that the saved weights depend on, each with another value
    samples: str = ".png"               # how the files in samples/ end, "" if there is none at each step
    data: str = "data"                  # the flag that names what is learnt from, "" if nothing can be named
    prepare: Callable = lambda _: {}    # makes files in the folder it is given, returns further settings
    losses: str = "loss"                # what must be finite at every step
    compiled: int = 1                   # how many networks --compile compiles
    stops: tuple = (STOP,)              # after which step a run is stopped, to be gone on with
    variants: tuple = ()                # other settings with which it must go on exactly, too
    to_sample: tuple = ()               # the flags without which `sample` has nothing to do
    parallel: dict | None = None        # with several processes: settings; None if it is not offered


def text(folder):
    """Three sentences over and over, in random order."""
    sentences = ["the cat sat on the mat.", "a dog ran up the hill!", "no one saw it go?"]
    order = np.random.RandomState(0).randint(3, size=150)
    (folder / "text.txt").write_text("\n".join(sentences[i] for i in order))
    return {"data": str(folder / "text.txt")}


def translations(folder):
    """Sixty pairs of sentences."""
    subjects = [("The cat", "Le chat"), ("A dog", "Un chien"), ("Paul", "Paul"), ("My mother", "Ma mère")]
    verbs = [("sees", "voit"), ("eats", "mange"), ("likes", "aime"), ("takes", "prend"), ("has", "a")]
    objects = [("the apple", "la pomme"), ("a pear", "une poire"), ("two eggs", "deux œufs")]
    lines = [f"{s} {v} {o}.\t{s_fr} {v_fr} {o_fr}.\n"
             for (s, s_fr), (v, v_fr), (o, o_fr) in itertools.product(subjects, verbs, objects)]
    (folder / "pairs.tsv").write_text("".join(lines), encoding="utf-8")
    return {"data": str(folder / "pairs.tsv")}


GAN = dict(size=16, n_images=256, z_dim=6, ngf=8, ndf=4, batch_size=8, n=4)
GPT = dict(n_layer=2, n_head=2, n_embd=16, block_size=16, batch_size=4, max_new_tokens=20, warmup=1,
           dropout=0.1)
IMAGE = str(ROOT / "tests/reference/png/size_3x5.png")

SCRIPTS = {
    "train_gan": Script(
        columns="d_loss g_loss D(x) D(G(z)) accuracy", settings=GAN, fixed={"ngf": 9},
        losses="d_loss g_loss", compiled=2),
    "train_gpt": Script(
        columns="loss lr val_loss", settings=dict(GPT, tokenizer="char"), fixed={"n_embd": 32},
        samples=".txt", prepare=text, parallel=dict(grad_accum=2, dropout=0.0),
        variants=(dict(optimizer="adamw"), dict(tokenizer="bpe", vocab_size=270))),
    "train_diffusion": Script(
        columns="loss lr val_loss", settings=dict(size=16, n_images=64, width=32, T=20, batch_size=8, warmup=1,
                                                  n=8, sample_steps=4),
        fixed={"width": 64, "T": 10, "schedule": "linear", "predict": "v"},
        parallel={}),
    "mini.classifier": Script(
        columns="loss lr accuracy", settings=dict(size=16, n_images=120, width=4, n_features=16, batch_size=32),
        fixed={"width": 5}, samples="", to_sample=(f"--image={IMAGE}",)),
    "mini.cgan": Script(
        columns="d_loss g_loss D(x) D(G(z)) accuracy", settings=GAN, fixed={"ngf": 9},
        losses="d_loss g_loss", compiled=2),
    "mini.cyclegan": Script(
        columns="g_loss d_loss cycle identity", settings=dict(size=16, n_images=64, ngf=4, blocks=1, ndf=4,
                                                              batch_size=4, n=4, pool=6),
        fixed={"ngf": 9}, data="data_a", losses="g_loss d_loss", compiled=4),
    "mini.vae": Script(
        columns="loss log_p kl val_elbo", settings=dict(size=16, n_images=64, z_dim=3, width=4, batch_size=4, n=8),
        fixed={"z_dim": 4, "width": 8, "size": 32, "likelihood": "bernoulli"}),
    "mini.lstm": Script(
        columns="loss lr val_loss", settings=dict(n_layer=2, n_embd=16, block_size=16, batch_size=4, max_new_tokens=20,
                                                  warmup=1, tokenizer="char", dropout=0.1, weight_drop=0.1),
        fixed={"n_embd": 32}, samples=".txt", prepare=text, compiled=2, variants=(dict(tokenizer="bpe", vocab_size=270),)),
    "mini.llama": Script(
        columns="loss lr val_loss", settings=dict(GPT, n_kv_head=1, tokenizer="char", study_steps=1),
        fixed={"n_embd": 32, "n_kv_head": 2, "positions": "learned"}, samples=".txt", prepare=text,
        parallel=dict(grad_accum=2, dropout=0.0),
        variants=(dict(optimizer="adamw"), dict(tokenizer="bpe", vocab_size=270), dict(positions="learned", norm="layer"))),
    "mini.translator": Script(
        columns="loss lr exact_match", settings=dict(n_layer=1, n_head=2, n_embd=16, d_ff=32, max_len=12,
                                                     batch_size=4, warmup=4, beam=2, dropout=0.1),
        fixed={"n_embd": 32}, samples=".txt", prepare=translations),
    "mini.bert": Script(
        columns="loss lr val_loss", settings=dict(n_layer=1, n_head=2, n_embd=16, d_ff=32, block_size=128,
                                                  vocab_size=500, batch_size=4, warmup=2, few=20, tune_steps=2,
                                                  tune_batch=4, dropout=0.1),
        fixed={"n_layer": 2}, samples="", prepare=paragraphs, to_sample=("--text=the [MASK]",)),
    "mini.finetune": Script(
        columns="method loss lr", settings=dict(few=40, batch_size=4, warmup=1),
        fixed={"rank": 3, "pool": "mean"}, samples="", data="reviews", prepare=labelled_texts_and_a_base,
        compiled=0, stops=(1, 2, STOP), to_sample=("--text=The plot dragged.",)),
    "mini.music": Script(
        columns="loss lr val_loss", settings=dict(pieces=12, n_layer=2, n_head=2, n_embd=16, block_size=32,
                                                  batch_size=4, max_new_tokens=40, num_samples=2,
                                                  warmup=1, dropout=0.1,
                                                  transpose=2),
        fixed={"n_layer": 3}, samples=".mid"),
    "mini.assistant": Script(
        columns="loss lr right", settings=dict(n_layer=1, n_head=2, n_embd=16, n_dialogues=200, batch_size=4,
                                               n_test=10, warmup=2, dropout=0.1, fused=False),
        fixed={"n_embd": 32}, samples=".txt", data="", to_sample=("--prompt=What is 1 plus 2?",)),
    "mini.clip": Script(
        columns="loss lr scale recall", settings=dict(n_layer=1, n_head=2, n_embd=16, n_joint=8, size=8, patch=4,
                                                  n_images=24, batch_size=6, warmup=2),
        fixed={"n_joint": 4}),
    "mini.captioner": Script(
        columns="loss lr right", settings=dict(size=16, patch=8, n_images=60, n_layer=1, n_head=2, n_embd=16, d_ff=32,
                                               batch_size=4, warmup=2, beam=2, n=2, dropout=0.1),
        fixed={"patch": 4}),
    "mini.speech": Script(
        columns="loss lr wer", settings=dict(n_sentences=12, n_layer=1, n_head=2, n_embd=16, d_ff=32, n_mels=16,
                                             batch_size=4, warmup=2, n=2, dropout=0.1, mask_bands=2),
        fixed={"n_mels": 8}, samples=".txt"),
    "mini.text_to_image": Script(
        columns="stage loss lr val_loss", settings=dict(n_images=40, width=32, levels=1, T=20, batch_size=4,
                                                        warmup=1, n=2, sample_steps=2),
        fixed={"T": 10}, stops=(1, 2, 3)),
    "mini.latent_diffusion": Script(
        columns="part loss lr val_loss", settings=dict(size=16, n_images=40, ae_width=8, width=32, depth=1, n_layer=1,
                                                       batch_size=4, ae_batch_size=4, ae_share=0.4, warmup=1, n=2,
                                                       sample_steps=2),
        fixed={"depth": 2, "z_channels": 3, "width": 64}, stops=(1, 2, 3)),
}

every_script = pytest.mark.parametrize("name", SCRIPTS)


def small_data(setattr):
    """Few held-out images and texts, and judges that learn for two steps; tests.stress needs the same."""
    setattr(image_sets, "HELD_OUT", 12)
    setattr(captions, "HELD_OUT", 12)
    setattr(domains, "HELD_OUT", 24)
    setattr(judge, "STEPS", 2)
    setattr(judge, "TRIAL_STEPS", 2)
    setattr(recordings, "HELD_OUT", 6)
    setattr(recordings, "N_VOICES", 20)
    setattr(warping, "PER_WORD", 1)
    setattr(scores, "N_WARPING", 2)
    setattr(speech_study, "N_WARPING", 2)
    for number, n in dict(N_TEST=30, N_POOL=60, N_UNLABELLED=20).items():
        setattr(reviews, number, n)
    for name in ("unlabelled", "unlabelled_reports"):
        setattr(passages, name, functools.partial(getattr(passages, name), 30))
    for load in ("load_entities", "load_questions"):
        setattr(passages, load, functools.partial(getattr(passages, load), n_test=30))
    setattr(llama_study, "SEEDS", (1,))
    setattr(llama_study, "TIMED_STEPS", 1)
    setattr(config, "field_notes", functools.cache(config.field_notes))         # it reads the source each time


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    """A folder to work in, with small_data."""
    folder = tmp_path_factory.mktemp("scripts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        small_data(patch.setattr)
        yield folder


@dataclasses.dataclass
class Trained:
    """A run that came to its end. Nobody may write to its folder: `copy` makes another one."""
    script: Script
    module: object
    settings: dict                      # all that the Config was given but out_dir
    folder: Path
    result: dict
    printed: str
    checked: list                       # (step, names of the losses that were seen to be finite)

    def config(self, **changes):
        return self.module.Config(**{**self.settings, **changes})

    def flags(self, **changes):
        return [f"--{key}={value}" for key, value in {**self.settings, **changes}.items()]

    def copy(self, folder) -> Path:
        return Path(shutil.copytree(self.folder, folder))

    def use(self, command, folder):
        """The command line that uses the checkpoint in a folder: to go on, to sample or to evaluate."""
        given = {"train": ["--resume"], "sample": ["sample", *self.script.to_sample], "evaluate": ["evaluate"]}
        return [*given[command], f"--out_dir={folder}", "--device=cpu"]


@pytest.fixture(scope="module")
def trained(place):
    """trained(name): the Trained run of a script, the same for all tests here."""
    @functools.cache
    def train(name):
        script, module, own = SCRIPTS[name], importlib.import_module(name), place / name
        own.mkdir()
        checked, plain = [], Run.check_finite

        def spy(run, step, **losses):
            checked.append((step, set(losses)))
            plain(run, step, **losses)

        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
            settings = {**COMMON, **script.settings, **script.prepare(own)}
            patch.setattr(Run, "check_finite", spy)
            result = module.train(module.Config(**settings, out_dir=str(own / "whole")))
        return Trained(script, module, settings, own / "whole", result, out.getvalue(), checked)
    return train


def read_checkpoint(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


# ---- what a run leaves

@every_script
def test_a_run_leaves_what_every_run_leaves(name, trained):
    """A file that is not there, a column that is, a loss that nobody looks at before the step that it may spoil."""
    run = trained(name)
    saved = json.loads((run.folder / "result.json").read_text())
    assert saved == run.result
    assert list(saved)[:5] == ["model", "steps", "seconds", "parameters", "device"]
    assert saved["model"] == name.removeprefix("train_").removeprefix("mini.")
    assert saved["steps"] == STEPS and saved["seconds"] >= 0 and saved["parameters"] > 0 and saved["device"] == "cpu"

    written = json.loads((run.folder / "config.json").read_text())
    assert written == dataclasses.asdict(run.config(out_dir=str(run.folder)))

    rows = list(csv.DictReader((run.folder / "log.csv").read_text().splitlines()))
    assert list(rows[0]) == ["step", "seconds", *run.script.columns.split()]
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5]
    losses = run.script.losses.split()
    assert all(math.isfinite(float(row[loss])) for row in rows for loss in losses)
    for step in range(STEPS):
        seen = set().union(*(names for at, names in run.checked if at == step))
        assert set(losses) <= seen, f"at step {step} nobody looked at {set(losses) - seen}"

    samples = [path.name for path in (run.folder / "samples").iterdir()]
    if run.script.samples:
        assert {f"step_00000{step}{run.script.samples}" for step in (2, 4, 5)} <= set(samples)
    assert not list(run.folder.glob("*.tmp"))
    assert read_png(run.folder / "curves.png").shape[1] == 760
    last_line = run.printed.splitlines()[-1]
    assert "look in" in last_line and str(run.folder) in last_line and "curves.png" in last_line


@every_script
def test_a_checkpoint_is_plain_data_and_complete(name, trained):
    """A pickled object in it could run code when it is read; without the random states no run goes on exactly."""
    run = trained(name)
    checkpoint = read_checkpoint(run.folder)
    assert checkpoint["step"] == STEPS and checkpoint["name"] == run.result["model"]
    assert checkpoint["config"] == dataclasses.asdict(run.config(out_dir=str(run.folder)))
    assert {"model", "optimizers", "seconds"} <= set(checkpoint) and set(checkpoint["rng"]) >= {"cpu", "data"}
    assert all(isinstance(value, torch.Tensor) for value in checkpoint["model"].values())


# ---- stopping and going on

def without_times(value):
    """How long a run took may differ."""
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key not in ("seconds", "seconds_before")}
    return value


def same(a, b) -> bool:
    """Equal to the last bit: numbers, texts, tensors, and lists and dicts of them."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def same_end(whole, other):
    """Two folders of runs ended alike: checkpoint, log and results, but for times and the folder's name."""
    a, b = (without_times(read_checkpoint(folder)) for folder in (whole, other))
    assert a["step"] == b["step"] == STEPS and a.keys() == b.keys()
    for key in a.keys() - {"config", "rng"}:
        assert same(a[key], b[key]), f"other {key}"
    assert same(a["rng"]["data"], b["rng"]["data"])
    logs = [[{**row, "seconds": ""} for row in csv.DictReader((folder / "log.csv").read_text().splitlines())]
            for folder in (whole, other)]
    assert logs[0] == logs[1]
    results = [without_times(json.loads((folder / "result.json").read_text())) for folder in (whole, other)]
    assert results[0] == results[1]


EXACTLY = [(name, stop, {}) for name, script in SCRIPTS.items() for stop in script.stops]
EXACTLY += [(name, STOP, changes) for name, script in SCRIPTS.items() for changes in script.variants]


@pytest.mark.parametrize("name, stop, changes", EXACTLY, ids=str)
def test_a_run_that_was_stopped_ends_like_one_that_was_not(name, stop, changes, trained, tmp_path):
    """Bit for bit. Lost before: an average of the weights, an optimiser's state, the order of the data, the place in
    the schedule, a pool of images, the masks of dropout, BatchNorm's statistics."""
    run = trained(name)
    whole = run.folder
    if changes:
        whole = tmp_path / "whole"
        run.module.train(run.config(**changes, out_dir=str(whole)))
    left = run.module.train(run.config(**changes, out_dir=str(tmp_path / "run"), stop_after=stop))
    assert left["steps"] == stop and "interrupted" in left and (tmp_path / "run/curves.png").exists()
    assert read_checkpoint(tmp_path / "run")["step"] == stop and not (tmp_path / "run/result.json").exists()

    torch.manual_seed(99)                           # what else happened since
    run.module.main(run.use("train", tmp_path / "run"))     # all other settings are in the checkpoint
    same_end(whole, tmp_path / "run")


@every_script
def test_ctrl_c_saves_and_says_how_to_go_on(name, trained, tmp_path, capsys, monkeypatch):
    """The step at hand is brought to its end, and the exit status says that the run was not."""
    run, plain, signals = trained(name), Run.check_finite, [signal.SIGINT]

    def interrupted(*args, **losses):
        if signals:
            os.kill(os.getpid(), signals.pop())
        plain(*args, **losses)

    monkeypatch.setattr(Run, "check_finite", interrupted)
    with pytest.raises(SystemExit) as leaving:
        run.module.main(run.flags(out_dir=tmp_path / "run"))
    assert leaving.value.code == 130
    assert f"--resume --out_dir={tmp_path / 'run'}" in capsys.readouterr().out
    assert read_checkpoint(tmp_path / "run")["step"] == 1


@every_script
def test_a_run_goes_on_with_other_flags(name, trained, tmp_path):
    """The checkpoint's own settings are kept, those that are typed take their place, in the optimiser as well, whose
    state once brought the old ones back."""
    run = trained(name)
    folder = run.copy(tmp_path / "run")
    fields = {field.name for field in dataclasses.fields(run.module.Config)}
    other = {flag: 0.25 for flag in ("beta1", "beta2", "weight_decay") if flag in fields}
    other |= {"steps": STEPS + 2, "log_every": 2}
    typed = [f"--{key}={value}" for key, value in other.items()]
    run.module.main([*run.use("train", folder), "--stop_after=1", *typed])
    before, after = read_checkpoint(run.folder), read_checkpoint(folder)
    assert after["step"] == STEPS + 1
    changed = {key for key, value in after["config"].items() if value != before["config"][key]}
    assert changed == {*other, "out_dir", "resume", "stop_after"}
    assert all(after["config"][key] == value for key, value in other.items())
    groups = [group for optimizer in after["optimizers"] for group in optimizer["param_groups"]]
    for place, flag in enumerate(("beta1", "beta2")):
        assert flag not in other or any(group["betas"][place] == 0.25 for group in groups if "betas" in group)
    assert "weight_decay" not in other or any(group["weight_decay"] == 0.25 for group in groups)


@every_script
def test_a_finished_run_goes_on_to_nothing(name, trained, tmp_path):
    """There is no step left to take, but no reason to crash either, nor to learn on."""
    run = trained(name)
    folder = run.copy(tmp_path / "run")
    run.module.main(run.use("train", folder))
    same_end(run.folder, folder)


@every_script
def test_a_second_run_leaves_the_first_alone(name, trained, tmp_path, capsys):
    """The older one is renamed; and who then samples from one step is told where the longer run is."""
    run = trained(name)
    folder, aside = run.copy(tmp_path / "run"), tmp_path / "run.1"
    files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    run.module.main(run.flags(out_dir=folder, steps=1))
    assert f"kept in {aside}" in capsys.readouterr().out
    assert files == {path.relative_to(aside): path.read_bytes() for path in aside.rglob("*") if path.is_file()}
    run.module.main(run.use("sample", folder))
    printed = capsys.readouterr().out
    assert "has only 1 steps" in printed and f"--out_dir={aside}" in printed
    assert read_checkpoint(folder)["step"] == 1         # sampling has written nothing there


@every_script
def test_a_run_of_one_step_that_reports_at_its_end(name, trained, tmp_path):
    """No evaluation, sample or line of the log is due before the last step, which is the first, and after which the
    run is to be stopped, too: it has finished."""
    run = trained(name)
    result = run.module.train(run.config(out_dir=str(tmp_path), steps=1, eval_every=0, sample_every=0, log_every=0,
                                         stop_after=1))
    assert result["steps"] == 1 and "interrupted" not in result and (tmp_path / "result.json").exists()
    assert [row.split(",")[0] for row in (tmp_path / "log.csv").read_text().splitlines()] == ["step", "1"]
    if run.script.samples:
        assert (tmp_path / f"samples/step_000001{run.script.samples}").exists()
    assert read_checkpoint(tmp_path)["step"] == 1


class Compiled(torch.nn.Module):
    """Stands for what torch.compile returns: the names of its weights begin with _orig_mod, the rest is the same."""

    def __init__(self, net):
        super().__init__()
        self._orig_mod = net
        self.calls = 0

    def forward(self, *args, **kwargs):
        self.calls += 1
        return self._orig_mod(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(super().__getattr__("_orig_mod"), name) if name != "_orig_mod" else super().__getattr__(name)


@every_script
def test_compile_is_offered_and_the_checkpoint_stays_plain(name, trained, tmp_path, monkeypatch):
    """With the compiled names in it no other run could read the checkpoint."""
    run, made = trained(name), []
    monkeypatch.setattr(torch, "compile", lambda net, **_: made.append(Compiled(net)) or made[-1])
    run.module.train(run.config(out_dir=str(tmp_path / "run"), compile=True, stop_after=1))
    assert len(made) == run.script.compiled and all(net.calls for net in made)
    assert set(read_checkpoint(tmp_path / "run")["model"]) == set(read_checkpoint(run.folder)["model"])


# ---- several processes

WORKER = """
import importlib, json, os, sys
import torch
from torch.nn.parallel import DistributedDataParallel
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double
sizes = []
def note(module, inputs):
    if isinstance(module, DistributedDataParallel):
        sizes.append(len(inputs[0]))
torch.nn.modules.module.register_module_forward_pre_hook(note)
script = importlib.import_module(sys.argv[1])
if hasattr(script, "Judge"):                # of the images: it needs no second process, and here no first one
    from types import SimpleNamespace
    script.Judge = lambda *_, **__: SimpleNamespace(n=0, labels=None, scores=lambda *_: {})
if os.environ["RANK"] == "0":               # one process takes the same steps alone
    os.environ["WORLD_SIZE"] = "1"
    script.main([*sys.argv[3:], "--out_dir=one"])
    os.environ["WORLD_SIZE"] = "2"
script.main([*sys.argv[3:], "--out_dir=" + sys.argv[2]])
print("sizes", json.dumps(sizes))
"""


@pytest.mark.parametrize("name", [name for name, script in SCRIPTS.items() if script.parallel is not None])
def test_two_processes_take_the_steps_of_one(name, trained, tmp_path):
    """In float64, to 1e-9: the gradient of the whole batch, of which each process has half; only the first process
    speaks and writes, and the names in its checkpoint are plain."""
    run = trained(name)
    (tmp_path / "worker.py").write_text(WORKER)
    changes = {**run.script.parallel, "steps": 2, "eval_every": 0, "sample_every": 0}

    with processes(tmp_path) as start:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
        ranks = [start("worker.py", name, f"two.{rank}", *run.flags(**changes),
                       **address, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in (0, 1)]
        printed = [process.communicate(timeout=120)[0] for process in ranks]
        assert [process.returncode for process in ranks] == [0, 0], printed

    assert printed[0].count("step 2/2") == 2 and printed[1].startswith("sizes ")
    assert not (tmp_path / "two.1").exists()
    parts = changes.get("grad_accum", 1)
    share = run.settings["batch_size"] // parts // 2
    assert all(f"sizes {[share] * parts * 2}" in text for text in printed)
    one, two = (read_checkpoint(tmp_path / folder)["model"] for folder in ("one", "two.0"))
    assert set(one) == set(two)
    for key in one:
        close(two[key], one[key], 1e-9)


# ---- another device

MORE_TO_SAMPLE = {
    "train_gan": (["--interpolate"],),
    "mini.cgan": (["--vary=glasses"],),
    "mini.cyclegan": ([f"--image={IMAGE}"],),
    "mini.clip": (["--prompt=a face with red hair"], [f"--image={IMAGE}"]),
    "mini.captioner": ([f"--image={IMAGE}"],),
    "mini.text_to_image": (["--prompt=red hair"],),
    "mini.latent_diffusion": (["--prompt=red hair"], [f"--image={IMAGE}"]),
    "mini.bert": (["--task=sentiment", "--text=the cat"], ["--task=entities", "--text=the cat"],
                  ["--task=answer", "--text=the cat saw", "--question=who?"]),
}


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")       # it is copied, nevertheless
@every_script
def test_all_tensors_meet_on_the_device(name, trained, tmp_path, monkeypatch):
    """In training, and in every way to use what was trained. The translator drew its attention with words that were
    on the CPU, after the last step and before result.json: on CUDA the run ended in a traceback."""
    run = trained(name)
    module = run.module
    for other in list(sys.modules.values()):
        if getattr(other, "__name__", "").startswith(("mini.", "train_")):
            if hasattr(other, "pick_device"):
                monkeypatch.setattr(other, "pick_device", lambda _: elsewhere.DEVICE)
            if hasattr(other, "autocast"):
                monkeypatch.setattr(other, "autocast", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(few_labels, "from_few", lambda *_, **__: {})        # it takes long, and trains only judges
    fields = {field.name: field for field in dataclasses.fields(module.Config)}
    uses = [["sample", *run.script.to_sample]]
    if name not in ("mini.assistant", "mini.captioner", "mini.cyclegan", "mini.speech"):   # long, with nothing new in it
        uses.append(["evaluate", *(["--n_test=4"] if "n_test" in fields else [])])
    uses += [["sample", *flags] for flags in MORE_TO_SAMPLE.get(name, ())]
    for what in config.choices_of(fields["show"]) if "show" in fields else ():
        if what != "map":                               # it needs a network with two numbers
            uses.append(["sample", f"--show={what}", *(["--glasses=round"] if what == "arithmetic" else [])])
    with elsewhere.elsewhere():
        short = dict(out_dir=str(tmp_path / "run"), steps=2, eval_every=0, sample_every=0)
        module.train(run.config(**short, stop_after=1))
        result = module.train(run.config(**short, resume=True))
        assert result["device"] == "meta" and result["steps"] == 2
        for flags in uses:
            module.main([*flags, f"--out_dir={tmp_path / 'run'}"])


# ---- trouble: one line, exit status 2, no traceback, nothing lost

@every_script
def test_a_loss_that_is_not_a_number_stops_the_run(name, trained, tmp_path, capsys):
    """Once a run went on with NaN, and saved it over the last good weights."""
    run = trained(name)
    folder = run.copy(tmp_path / "run")
    checkpoint = read_checkpoint(folder)
    for value in checkpoint["model"].values():
        if value.is_floating_point():
            value.fill_(math.nan)
    torch.save(checkpoint, folder / "checkpoint.pt")
    before = (folder / "checkpoint.pt").read_bytes()
    error = refused_by(run.module.main, capsys, *run.use("train", folder), f"--steps={STEPS + 1}")
    assert f" is nan at step {STEPS}" in error and "lower the learning rate" in error
    assert any(error.startswith(f"error: {loss} is") for loss in run.script.losses.split())
    assert (folder / "checkpoint.pt").read_bytes() == before


@every_script
def test_out_of_memory_names_what_to_lower(name, trained, tmp_path, capsys, monkeypatch):
    """The batch, and sizes of the network: --n_embd=1000000000 was told to lower --batch_size."""
    def backward(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    run = trained(name)
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    error = refused_by(run.module.main, capsys, *run.flags(out_dir=tmp_path / "run"))
    named = re.findall(r"--(\w+)", error)
    sizes = set(run.module.Config.fixed) - {"size", "n_images", "n_pairs", "pieces", "n_dialogues"}
    assert "out of memory: lower --batch_size" in error and set(named) & sizes
    assert set(named) <= {field.name for field in dataclasses.fields(run.module.Config)}


@every_script
def test_wrong_flags_are_refused(name, trained, tmp_path, capsys):
    """With the closest name, or the choices there are; and no folder is made for a run that cannot begin."""
    run = trained(name)
    flags = run.flags(out_dir=tmp_path / "run")
    for wrong, words in ((["--batch_sise=3"], "did you mean --batch_size"), (["--out-dir=x"], "did you mean --out_dir"),
                         (["--steps=many"], "invalid int value: 'many'"), (["--preset=huge"], "choose from"),
                         (["--matmul=low"], "choose from"), (["--log_every"], "expected one argument")):
        assert words in refused_by(run.module.main, capsys, *flags, *wrong)
    assert "choose from train, sample, evaluate" in refused_by(run.module.main, capsys, "tarin", *flags)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["train_gan", "train_diffusion", "mini.cgan", "mini.vae", "mini.cyclegan",
                                  "mini.text_to_image", "mini.latent_diffusion"])
def test_flags_are_refused_before_a_judge_is_trained(name, trained, tmp_path, capsys, monkeypatch):
    """It takes half a minute, or minutes: nobody wants to wait for the answer that a flag cannot be used."""
    run = trained(name)
    monkeypatch.setattr(judge, "trained_classifier", lambda *_: pytest.fail("a judge was trained"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    folder = run.copy(tmp_path / "run")
    for wrong in ("--device=cuda", "--n_test=-1", "--lr=-1", f"--{[*run.script.fixed][0]}=0"):
        field = wrong.split("=")[0].lstrip("-")
        for flags in (run.flags(out_dir=tmp_path / "new"), run.use("train", folder), run.use("evaluate", folder)):
            assert field in refused_by(run.module.main, capsys, *flags, wrong), (wrong, flags)
    assert not (tmp_path / "new").exists()


@every_script
def test_presets_are_settings_that_the_config_has(name, trained):
    run = trained(name)
    for preset in run.module.PRESETS.values():
        run.module.Config(**preset)


@every_script
def test_no_such_device(name, trained, tmp_path, capsys, monkeypatch):
    """In training as in using what was trained."""
    run = trained(name)
    folder = run.copy(tmp_path / "run")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "gpu"):
        for flags in (run.flags(out_dir=tmp_path / "new"), run.use("train", folder), run.use("sample", folder)):
            assert "use --device=cpu" in refused_by(run.module.main, capsys, *flags, f"--device={device}")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", [name for name, script in SCRIPTS.items() if script.data])
def test_data_that_cannot_be_read(name, trained, tmp_path, capsys):
    """Nothing there, nothing in it: the error names the path. From Python it is a UserError, not an exit."""
    run = trained(name)
    (tmp_path / "empty").write_text("")
    (tmp_path / "folder").mkdir()
    for path in ("nowhere", "empty", "folder"):
        wrong = {run.script.data: str(tmp_path / path)}
        error = refused_by(run.module.main, capsys, *run.flags(**wrong, out_dir=tmp_path / "run"))
        assert str(tmp_path / path) in error
        with pytest.raises(UserError):
            run.module.train(run.config(**wrong, out_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


@every_script
def test_what_the_weights_depend_on_cannot_be_changed(name, trained, tmp_path, capsys):
    """It would be an error of torch's about shapes, or noise without a word."""
    run = trained(name)
    folder = run.copy(tmp_path / "run")
    before = (folder / "checkpoint.pt").read_bytes()
    assert set(run.module.Config.fixed) <= {field.name for field in dataclasses.fields(run.module.Config)}
    for command, (field, value) in itertools.product(COMMANDS, run.script.fixed.items()):
        error = refused_by(run.module.main, capsys, *run.use(command, folder), f"--{field}={value}", "--steps=9")
        assert f"--{field}={value}" in error and "leave the flag out" in error
    assert (folder / "checkpoint.pt").read_bytes() == before


class Harmful:
    """An object that makes a folder when it is read from a pickle; it could as well delete one."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@every_script
def test_checkpoints_that_cannot_be_used(name, trained, tmp_path, capsys):
    """There is none; half of one; another model's; a file of something else, or an object that could run code."""
    run = trained(name)
    folder = run.copy(tmp_path / "run")
    path = folder / "checkpoint.pt"
    whole = path.read_bytes()

    def refused(*words):
        for command in COMMANDS:
            error = refused_by(run.module.main, capsys, *run.use(command, folder))
            assert all(word in error for word in (str(path), *words)), (command, error)

    for length in (0, 10, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        refused("truncated")
    torch.save({**torch.load(io.BytesIO(whole), weights_only=True), "name": "another"}, path)
    refused("'another'", f"'{run.result['model']}'")
    torch.save([1, 2, 3], path)
    refused("not a checkpoint of ours")
    torch.save({**torch.load(io.BytesIO(whole), weights_only=True), "extra": Harmful(tmp_path / "harm")}, path)
    refused("not a checkpoint")
    assert not (tmp_path / "harm").exists()
    path.unlink()
    refused("no checkpoint", "train first")
    assert not path.exists()


# ---- whoever adds a script

def test_every_script_is_tested_here():
    """A file with a Config and a main is a script."""
    files = [*ROOT.glob("train_*.py"), *(ROOT / "mini").glob("*.py")]
    found = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files
             if "\nclass Config(" in path.read_text("utf-8")}
    assert found == set(SCRIPTS), "a new script needs an entry in SCRIPTS, at the top of this file"
