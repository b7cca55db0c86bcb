"""What several tests need."""
import contextlib
import functools
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import train_gpt
from mini.data.images import image_sets
from mini.data.text.reviews import write_reviews
from mini.utils import config
from mini.utils.config import UserError
from mini.utils.images import to_float
from mini.utils.lettering import black_on_white
from mini.utils.png import read_png, write_png

ROOT = Path(__file__).parent.parent


def close(a, b, tolerance=1e-5):
    """max|a − b| ≤ tolerance · max|b|, for tensors or arrays of the same shape."""
    a, b = torch.as_tensor(a).detach(), torch.as_tensor(b).detach()
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * b.abs().max(), ((a - b).abs().max(), b.abs().max())


def refused(call, *names) -> str:
    """The message of the UserError that call() raises: one line, with all the names in it."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and all(str(name) in message for name in names), message
    return message


def refused_by(main, capsys, *args) -> str:
    """What a script's main prints on stderr as it refuses the command line: one line, exit status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as leaving:
        main(list(args))
    err = capsys.readouterr().err
    assert leaving.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    return err


NAMES_IN_TORCH = [                      # patterns for our names, and what torch.nn.Transformer has there
    (r"coder\.", "coder.layers."),
    (r"cross_attn", "multihead_attn"),
    (r"attn\.k?[qv]\.", "attn.in_proj_"),
    (r"attn\.out\.", "attn.out_proj."),
    (r"feed_forward\.w_", "linear"),
    (r"norm_", "norm"),
]


def as_torch_has_it(ours: dict) -> dict:
    """Tensors by the names of our encoder–decoder Transformers to tensors by those of
    torch.nn.Transformer, where in_proj joins q, k and v. What it has not is left out: embeddings
    and positions."""
    theirs = {}
    for name, value in ours.items():
        for pattern, name_there in NAMES_IN_TORCH:
            name = re.sub(pattern, name_there, name)
        theirs[name] = torch.cat([theirs[name], value]) if name in theirs else value
    return {name: value for name, value in theirs.items() if "coder" in name}


def encoder_decoder(script, n_target=23, seed=0, **sizes):
    """A small model of mini/translator.py or mini/captioner.py; biases and norms too are not as at
    first."""
    torch.manual_seed(seed)
    small = dict(n_layer=2, n_head=4, n_embd=32, d_ff=48, max_len=12, dropout=0.0)
    if hasattr(script, "Captioner"):
        cfg = script.Config(**{**small, "size": 16, "patch": 4, **sizes})
        model = script.Captioner(cfg, n_target)
    else:
        cfg = script.Config(**{**small, **sizes})
        model = script.Transformer(cfg, 20, n_target)
    for p in model.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    return model


def sentences(lengths, V, bos=False, seed=1):
    """Random ones below V, filled up with PAD (0), the last word EOS, the first perhaps BOS: (n, max(lengths))."""
    rng = torch.Generator().manual_seed(seed)
    rows = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, n in zip(rows, lengths):
        row[:n] = torch.randint(3, V, (n,), generator=rng)
        row[n - 1] = 2
        if bos:
            row[0] = 1
    return rows


def pictures(n, seed=1, size=16):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def every_dropout_acts(model, n: int, *inputs):
    """The model has n places of dropout; in eval() none acts, in train() each by itself changes the output."""
    model.eval()
    assert torch.equal(model(*inputs), model(*inputs))
    model.train()
    places = [m for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert len(places) == n
    for place in places:
        for other in places:
            other.p = 0.5 if other is place else 0.0
        assert not torch.equal(model(*inputs), model(*inputs))


def rng_of(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=rng_of(seed), dtype=dtype)


@contextlib.contextmanager
def cheap_judges(tmp_path_factory, name):
    """A folder to work in, and a MonkeyPatch: few held-out images, judges under runs/ that learn for 2 steps."""
    folder = tmp_path_factory.mktemp(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(image_sets, "HELD_OUT", 64)
        patch.setattr("mini.utils.judge.STEPS", 2)
        patch.setattr("mini.utils.judge.TRIAL_STEPS", 2)
        patch.setattr(config, "field_notes", functools.cache(config.field_notes))       # it reads the source each time
        yield folder, patch


def own_captions(folder, captions_of, n=6):
    """The path of a file of captions, as a user brings it: captions_of(i) are those of the grey picture i of n."""
    lines = []
    for i in range(n):
        write_png(folder / f"{i}.png", np.full((20, 24, 3), 40 * i, np.uint8))
        lines += [f"{i}.png\t{text}" for text in captions_of(i)]
    (folder / "own.tsv").write_text("\n".join(lines), "utf-8")
    return str(folder / "own.tsv")


def read_grid(path, columns=8, size=16):
    """The grid that a sheet was before it was enlarged, and its rows or columns named: uint8 (H, W, C)."""
    picture = read_png(path)
    width = columns * (size + 2) + 2
    scale = max(1, -(-600 // width))                            # the least with which it is 600 pixels wide
    rows = (picture.shape[0] - 2 * scale) // ((size + 2) * scale)
    picture = picture[-scale * (rows * (size + 2) + 2):, -scale * width:]       # the names are above and on the left
    small = picture[::scale, ::scale]
    assert picture.shape[1] == scale * width and np.array_equal(small.repeat(scale, 0).repeat(scale, 1), picture)
    return small


def find_text(picture, text: str) -> list:
    """[(row, column), …] of the places where a line of black text stands in a picture (H, W, C)."""
    letters, gray = black_on_white(text, 2), picture[:, :, 0]
    height, width = letters.shape
    middle = letters[height // 2].tobytes()
    found = []
    for row in range(gray.shape[0] - height + 1):
        line = gray[row + height // 2].tobytes()
        column = line.find(middle)
        while column >= 0:
            if np.array_equal(gray[row:row + height, column:column + width], letters):
                found.append((row, column))
            column = line.find(middle, column + 1)
    return found


def read_sheet(path, columns=8, size=16):
    """The pictures of a sheet: float (rows, columns, C, size, size) in [-1, 1]."""
    pixels = to_float(torch.tensor(read_grid(path, columns, size)).permute(2, 0, 1))
    rows = pixels.unfold(1, size + 2, size + 2).unfold(2, size + 2, size + 2)       # (C, rows, columns, size + 2, …)
    assert rows.size(2) == columns
    return rows[..., 2:, 2:].permute(1, 2, 0, 3, 4)


def alike(a, b):
    """Pictures, after they were rounded to 8 bits."""
    assert a.shape == b.shape
    return (a - b.clamp(-1, 1)).abs().max() <= 1.01 / 255


def learnt_by_heart(model, loss_of, steps: int, lr=0.01) -> float:
    """The loss after so many steps of AdamW on one batch: a network that cannot learn that by heart cannot learn."""
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
    return loss.item()


def watch(monkeypatch, script, copy):
    """What happens in a call of the train() of a script with G and D: the networks, as they were at the start, by
    copy(name, net, cfg), what they were given while gradients were on [(name, inputs)], and the optimisers' steps
    [(first letter of whose networks, parameters changed, {name: gradient})]."""
    seen, make_nets = SimpleNamespace(nets=None, calls=[], steps=[]), script.make_nets

    def hook(name):
        def note(_, inputs):
            if torch.is_grad_enabled():
                seen.calls.append((name, [x.detach().clone() for x in inputs]))
        return note

    def spy(cfg, *args):
        if seen.nets is not None:                   # those that stay untrained come second
            return make_nets(cfg, *args)
        seen.nets = make_nets(cfg, *args)
        seen.start = {name: copy(name, net, cfg) for name, net in seen.nets.items()}
        for name, net in seen.nets.items():
            net.register_forward_pre_hook(hook(name))
        return seen.nets

    class Recording(torch.optim.Adam):
        def step(self, closure=None):
            mine = {id(p) for group in self.param_groups for p in group["params"]}
            parameters = dict(seen.nets.named_parameters())
            before = {name: p.detach().clone() for name, p in parameters.items()}
            gradients = {name: None if p.grad is None else p.grad.clone() for name, p in parameters.items()}
            super().step(closure)
            changed = {name for name, p in parameters.items() if not torch.equal(p, before[name])}
            owner, = {name[0] for name, p in parameters.items() if id(p) in mine}
            assert mine == {id(p) for name, p in parameters.items() if name[0] == owner}        # all of them
            seen.steps.append((owner, changed, gradients))

    monkeypatch.setattr(script, "make_nets", spy)
    monkeypatch.setattr(torch.optim, "Adam", Recording)
    return seen


def of(values: dict, start: str) -> dict:
    """Those whose names begin so."""
    return {name: value for name, value in values.items() if name.startswith(start)}


def same_end(whole, other, step: int, *keys):
    """Two run folders ended alike, bit for bit: step, weights, optimisers, checkpoint[key], log but for its times."""
    a, b = (torch.load(run / "checkpoint.pt", weights_only=True) for run in (whole, other))
    assert a["step"] == b["step"] == step and all(a[key] == b[key] for key in keys)
    for name in a["model"]:
        assert torch.equal(a["model"][name], b["model"][name]), name
    assert str(a["optimizers"]) == str(b["optimizers"])
    logs = [[line.split(",")[:1] + line.split(",")[2:] for line in (run / "log.csv").read_text().split()]
            for run in (whole, other)]
    assert logs[0] == logs[1]


def paragraphs(folder):
    """Twenty texts of a sentence each."""
    lines = [f"The {a} saw the {b} in the garden." for a in ("cat", "dog", "boy", "fox")
             for b in ("bird", "tree", "moon", "wall", "rose")]
    (folder / "paragraphs.txt").write_text("\n\n".join(lines))
    return {"data": str(folder / "paragraphs.txt")}


def labelled_texts_and_a_base(folder):
    """Reviews, and a GPT to build on, trained on them for two steps."""
    pairs = write_reviews(120)
    (folder / "own.tsv").write_text("".join(f"{line}\t{['bad', 'good'][label]}\n" for line, label in pairs))
    (folder / "text.txt").write_text("\n".join(line for line, _ in pairs))
    sizes = dict(n_layer=2, n_head=2, n_embd=16, block_size=32, batch_size=4, vocab_size=300, max_new_tokens=5)
    train_gpt.train(train_gpt.Config(data=str(folder / "text.txt"), out_dir=str(folder / "base"), steps=2,
                                     device="cpu", **sizes))
    return {"reviews": str(folder / "own.tsv"), "init_from": str(folder / "base/checkpoint.pt")}


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def processes(folder):
    """Processes that do not outlive the test, whatever happens: `with processes(tmp_path) as start:`, and in it
    `start("worker.py", "an argument", RANK="0")` starts Python in that folder, with variables of its environment.
    It returns a Popen whose stdin, stdout and stderr are pipes of text, the last two of them one unless
    stderr=subprocess.PIPE is given."""
    started = []

    def start(*args, stderr=subprocess.STDOUT, **environment):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
        started.append(subprocess.Popen([sys.executable, *map(str, args)], cwd=folder, env=environment, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.kill()                  # does nothing to one that has ended
            process.communicate()           # until it is gone; closes the pipes
