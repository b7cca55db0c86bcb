"""mini/assistant.py: what is learnt and what is not, the loop that runs the tools, bad input."""
import io
import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import train_gpt
from mini import assistant
from mini.data.text.pieces import PieceTokenizer
from mini.data.text.questions import ALONE, DO_NOT_KNOW, Dialogue, Writer, known_words
from mini.data.text.tools import ERROR, UNKNOWN
from mini.utils.config import UserError
from tests.helpers import refused_by

ROOT, TOKENIZER = Path(__file__).parent.parent, PieceTokenizer(known_words())
TINY = dict(n_layer=1, n_head=2, n_embd=16, n_dialogues=200, batch_size=4, steps=6, eval_every=3, sample_every=3, log_every=1, n_test=10,
            warmup=2, device="cpu", matmul="highest", dropout=0.1, fused=False)


def tiny(tmp_path, **changes):
    return assistant.Config(**{**TINY, "out_dir": str(tmp_path / "run"), **changes})


def small_model(seed=0, **sizes):
    torch.manual_seed(seed)
    cfg = assistant.Config(**{**dict(n_layer=2, n_head=2, n_embd=32, fused=False), **sizes})
    model = train_gpt.GPT(cfg, TOKENIZER.vocab_size)
    for p in model.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    model.tokenizer = TOKENIZER
    return model


class Scripted(torch.nn.Module):
    """Instead of a model: writes given texts whatever it reads, one after the other, and notes what it has read."""

    def __init__(self, *texts, block_size=192):
        super().__init__()
        self.tokenizer = TOKENIZER
        self.cfg, self.device, self.read = assistant.Config(block_size=block_size), torch.device("cpu"), []
        self.tokens = [i for text in texts for i in TOKENIZER.encode(text)]

    def forward(self, idx):
        self.read = idx[0].tolist()
        token = self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0]
        return F.one_hot(torch.full(idx.shape, token), TOKENIZER.vocab_size).float()

    def has_read(self):
        return TOKENIZER.decode(self.read)


# ---- the loss

def test_only_what_the_assistant_writes_is_learnt():
    d = Dialogue("chain", "What is 2 times the area of Spain?", "1012000", [("lookup(area of Spain)", "506000"),
                                                                         ("calculator(2*506000)", "1012000")])
    x, y = assistant.encode_dialogues(TOKENIZER, [d.pieces(), d.alone()])
    rows = [TOKENIZER.decode([int(i) for i in row if i != assistant.IGNORED]) for row in y]
    assert rows == ["lookup(area of Spain)=calculator(2*506000)=1012000\n", "1012000\n"]
    for row, targets, pieces in zip(x.tolist(), y.tolist(), (d.pieces(), d.alone())):      # targets: one token later
        whole = TOKENIZER.encode("".join(text for text, _ in pieces))
        assert row[:len(whole) - 1] == whole[:-1]
        mine = [is_mine for text, is_mine in pieces for _ in TOKENIZER.encode(text)]
        assert targets[:len(whole) - 1] == [t if m else assistant.IGNORED for t, m in zip(whole[1:], mine[1:])]
        assert set(targets[len(whole) - 1:]) <= {assistant.IGNORED}


def test_the_loss_does_not_depend_on_what_user_and_tools_would_say():
    """Cross-entropy by hand over the assistant's places; the logits for all other places may be anything."""
    model, dialogues = small_model(), [w.pieces() for w in (Writer(1).write() for _ in range(3))]
    x, y = assistant.encode_dialogues(TOKENIZER, dialogues)
    logits = model(x.long())
    loss = assistant.assistant_loss(logits, y.long())
    log_p, total, count = F.log_softmax(logits, dim=2), 0.0, 0
    for b, pieces in enumerate(dialogues):
        t = 0
        for text, mine in pieces:
            for token in TOKENIZER.encode(text):
                if mine:
                    total, count = total - log_p[b, t - 1, token].item(), count + 1
                t += 1
    assert loss.item() == pytest.approx(total / count, rel=1e-5)
    grad, = torch.autograd.grad(loss, logits)
    assert (grad[y == assistant.IGNORED] == 0).all() and (grad[y != assistant.IGNORED].abs().sum(-1) > 0).all()


def test_training_takes_the_masked_targets(tmp_path, monkeypatch):
    inputs, targets, forward, loss = [], [], train_gpt.GPT.forward, assistant.assistant_loss
    monkeypatch.setattr(train_gpt.GPT, "forward", lambda self, idx: (
        inputs.append(idx) if self.training else None, forward(self, idx))[1])
    monkeypatch.setattr(assistant, "assistant_loss", lambda logits, y: targets.append(y) or loss(logits, y))
    assistant.train(tiny(tmp_path, steps=2, alone=0.0))
    assert len(inputs) == len(targets) == 2
    for x, y in zip(inputs, targets):
        kept = y != assistant.IGNORED
        assert torch.equal(x[:, 1:][kept[:, :-1]], y[:, :-1][kept[:, :-1]])     # the next token
        for row, targets in zip(x, y):
            first = (row == 0).nonzero()[0, 0]                                  # the end of the question
            assert (targets[:first] == assistant.IGNORED).all() and targets[first] != assistant.IGNORED
            for n in (row == TOKENIZER.index["="]).nonzero()[:, 0]:             # after "=" the tool writes, to the line's end
                if n > first:
                    end = n + (row[n:] == 0).nonzero()[0, 0]
                    assert (targets[n:end] == assistant.IGNORED).all() and targets[n - 1] == TOKENIZER.index["="]


def test_batches_hold_whole_dialogues_of_like_length():
    x, y = assistant.encode_dialogues(TOKENIZER, Writer(0).training_set(300, 0.2))
    rng, spreads = torch.Generator().manual_seed(0), []
    rows = {tuple(row) for row in torch.cat([x, y], dim=1).tolist()}
    for _ in range(60):
        a, b = assistant.draw_batch(x, y, 4, rng)
        T = a.size(1)
        assert a.dtype == b.dtype == torch.int64 and (b[:, -1] != assistant.IGNORED).any()
        whole = torch.cat([F.pad(a, (0, x.size(1) - T)), F.pad(b, (0, y.size(1) - T), value=assistant.IGNORED)], dim=1)
        assert all(tuple(row) in rows for row in whole.tolist())
        lengths = assistant.lengths(b)
        spreads.append((lengths.max() - lengths.min()).item())
    assert sum(spreads) / len(spreads) < 15                 # of up to a hundred


# ---- the loop

def test_the_loop_runs_the_tools_and_feeds_their_answers_back():
    model = Scripted("lookup(capital of France)=", "calculator(2*calculator(3+4))=", "Paris\n")
    answer, steps = assistant.respond(model, "  Où  est-ce?\n", assistant.Config(cache=False))
    assert answer == "Paris" and steps == [("lookup(capital of France)", "Paris"), ("calculator(2*calculator(3+4))", "14")]
    assert model.has_read() == ("Ou est-ce?\nlookup(capital of France)=Paris\ncalculator(2*calculator(3+4))=14\nParis")


@pytest.mark.parametrize("call, value", [("calculator(9**9**9)", ERROR + "too large"), ("calculator(1/0)", ERROR + "division by zero"),
                                         ("lookup(capital of Atlantis)", UNKNOWN), ("rm(1)", ERROR + "no such tool")])
def test_errors_of_tools_are_read_too(call, value):
    model = Scripted(call + "=", "Sorry\n")
    assert assistant.respond(model, "Q", assistant.Config(cache=False)) == ("Sorry", [(call, value)])
    assert f"={value}\n" in model.has_read()


def test_the_number_of_calls_and_the_context_are_bounded(tmp_path):
    steps = [("calculator(1+1)", "2"), *[("", ERROR + "no such tool")] * 2]
    cfg = assistant.Config(max_calls=3, cache=False)
    assert assistant.respond(Scripted("calculator(1+1)="), "Q", cfg) == (DO_NOT_KNOW, steps)
    model = Scripted("x")
    assert assistant.respond(model, "Q", assistant.Config(cache=False)) == (DO_NOT_KNOW, []) and len(model.read) == 192
    (tmp_path / "facts.tsv").write_text("B\ta\t" + "zq" * 5000 + "\n")             # longer than the context
    answer, steps = assistant.respond(Scripted("lookup(a of B)=", "x\n"), "Q", assistant.Config(cache=False),
                                      facts=str(tmp_path / "facts.tsv"))
    assert answer == DO_NOT_KNOW and len(steps) == 1


def test_without_tools_nothing_is_run():
    model = Scripted("1 = 1\n")
    assert assistant.respond(model, "Q", assistant.Config(tools=False, cache=False)) == ("1 = 1", [])
    assert model.has_read() == f"Q\n{ALONE}1 = 1"


def test_cached_equals_uncached_and_reads_only_what_is_new():
    for seed in range(8):
        model = small_model(seed)
        model.wte.weight.data[[TOKENIZER.index[c] for c in "=\n"]] *= 3        # so that it calls, and ends
        question = Writer(seed).write().question
        sizes, plain = [], model.embed
        model.embed = lambda idx, *args, **kw: sizes.append(idx.size(1)) or plain(idx, *args, **kw)
        cached = assistant.respond(model, question, assistant.Config())
        steps = len(sizes)
        assert cached == assistant.respond(model, question, assistant.Config(cache=False))
        assert sizes[0] > 1 and sum(sizes[:steps]) <= 192 < sum(sizes[steps:]) or steps < 4


def test_right_everywhere_means_that_the_loop_writes_the_same():
    """A model that has learnt eight dialogues by heart, and one that has not quite: `all_right` agrees with `respond`."""
    writer = Writer(4, ("entities",))
    dialogues = [writer.write() for _ in range(8)]
    model, cfg = small_model(n_layer=1, n_embd=64), assistant.Config()
    x, y = assistant.encode_dialogues(TOKENIZER, [d.pieces() for d in dialogues])
    optimizer, agreed = torch.optim.Adam(model.parameters(), 0.01), set()
    for step in range(31):
        if step in (0, 4, 8, 12, 30):
            for d, ok in zip(dialogues, assistant.all_right(model, x, y, at_once=3)):
                assert ok == (assistant.respond(model, d.question, cfg) == (d.answer, d.steps))
                agreed.add(ok)
        loss = assistant.assistant_loss(model(x.long()), y.long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert agreed == {True, False} and loss < 0.1


def test_held_out_sets():
    model = small_model()
    for name, new in assistant.SETS.items():
        t = assistant.held_out_set(name, 20, model)
        assert t["dialogues"] == [d for w in [Writer(1, new)] for d in (w.write() for _ in range(20))]
        assert set(t) == {"dialogues", *assistant.WAYS}
        assert all(len(x) == len(y) == 20 for x, y in (t[way] for way in assistant.WAYS))
        assert max(x.size(1) for x, _ in (t[way] for way in assistant.WAYS)) <= assistant.Config().block_size


def test_the_held_out_sets_are_as_large_as_asked_for():
    model = SimpleNamespace(tokenizer=TOKENIZER, device=torch.device("cpu"))
    for changes, n in (({}, 500), (dict(steps=3), 100), (dict(n_test=3), 3), (dict(n_test=600, steps=3), 600)):
        cfg = assistant.Config(**changes)
        assert {len(t["dialogues"]) for t in assistant.held_out_sets(cfg, model).values()} == {n}


# ---- the run

def test_end_to_end(tmp_path, capsys):
    result = assistant.train(tiny(tmp_path))
    run = tmp_path / "run"
    assert {*result["exact_match"]} == {*assistant.SETS}
    assert all({*row} == {*assistant.WAYS} for row in result["exact_match"].values())
    assert (run / "samples/step_000003.txt").read_text()
    out = capsys.readouterr().out
    assert "ln V" in out and "new entities: " in out and "without tools" in out
    args = [f"--out_dir={run}", "--device=cpu"]
    assert isinstance(assistant.main(["sample", *args, "--prompt=What is 1 plus 2?"]), str)
    assert isinstance(assistant.main(["sample", *args, "--prompt=What is 1 plus 2?", "--tools=false"]), str)
    assert result["n"] == 10 and "scoring 10 questions of each held-out set" in out
    tables = assistant.main(["evaluate", *args, "--n_test=5"])
    assert json.loads((run / "evaluate.json").read_text()) == tables
    assert set(tables["right_answers_of_the_loop"]) == set(assistant.SETS)
    assert "chain" in tables["right_with_tools_by_kind"]


# ---- the chat, and bad input: one line, exit status 2, no traceback, nothing lost

refused = partial(refused_by, assistant.main)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assistant")
    assistant.train(tiny(folder, steps=1))
    return f"--out_dir={folder}/run"


def test_a_chat_goes_on_until_the_input_ends(trained, monkeypatch, capsys):
    replies = {"hello": ("Hello!", []), "1+1": ("2", [("calculator(1+1)", "2")])}
    plain = assistant.respond
    monkeypatch.setattr(assistant, "respond", lambda model, q, *a: replies.get(q) or plain(model, q, *a))
    lines = b"hello\n\n  \n" + b"x" * 10000 + b"\n\xff\xfe?\n1+1"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines), encoding="utf-8"))
    assert assistant.main(["sample", trained, "--device=cpu"]) == "2"
    out = capsys.readouterr().out
    assert "> " in out and "  Hello!\n" in out and "    calculator(1+1) = 2\n  2\n" in out
    assert "(the question has 10,000 characters" in out and "Traceback" not in out


def test_strange_prompts_are_answered_within_a_second(trained, capsys):
    for prompt in ("What is 9**9**9?", "calculator(9**9**9)", "1/0", "calculator(calculator(2+3)*4)", "日本の首都は?", "=" * 50, "~", "\\n\\n", "('" * 20):
        start = time.perf_counter()
        assert isinstance(assistant.main(["sample", trained, "--device=cpu", f"--prompt={prompt}"]), str)
        assert time.perf_counter() - start < 5              # on a busy machine; a quiet one takes a tenth of it
    assert "10,000 characters" in refused(capsys, "sample", trained, "--device=cpu", "--prompt=" + "x" * 10000)
    assert "no question" in refused(capsys, "sample", trained, "--device=cpu", "--prompt=  ")


def test_ctrl_c_leaves_cleanly(trained, tmp_path):
    chat = subprocess.Popen([sys.executable, "-m", "mini.assistant", "sample", trained, "--device=cpu"], cwd=ROOT, text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))    # a shell's & ignores it
    while ">" not in chat.stdout.read(1):
        pass
    chat.send_signal(signal.SIGINT)
    assert chat.wait(timeout=30) == 130                 # with its input still open: else it may see the end of that first
    assert chat.communicate()[1] == ""


def test_your_own_facts(trained, tmp_path, capsys, monkeypatch):
    path, asked = tmp_path / "facts.tsv", []
    path.write_text("Atlantis\tcapital\tPoseidonis\n")
    monkeypatch.setattr(assistant, "respond", lambda *a: asked.append(a[3]) or ("x", []))
    assistant.main(["sample", trained, "--device=cpu", "--prompt=Q", f"--data={path}"])
    assert asked == [str(path)]
    assert "no such file" in refused(capsys, "sample", trained, "--device=cpu", "--prompt=Q", f"--data={tmp_path}/none.tsv")
    assert "for sample" in refused(capsys, f"--data={path}", f"--out_dir={tmp_path}/other")


def test_bad_sizes(tmp_path, capsys):
    run = [f"--out_dir={tmp_path}/run", "--device=cpu", "--steps=1"]
    for flag, word in (("n_embd=6", "--n_head"), ("n_dialogues=0", "no size"), ("batch_size=0", "no size"), ("max_calls=0", "no size"),
                       ("alone=1", "share"), ("block_size=64", "--block_size"), ("n_test=-1", "--n_test")):
        assert word in refused(capsys, *run, f"--{flag}")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError):
        assistant.respond(Scripted("x"), "", assistant.Config())
