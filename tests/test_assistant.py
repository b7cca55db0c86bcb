"""mini/assistant.py: what is learnt and what is not, the loop that runs the tools, bad input."""
import io
import json
import signal
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import train_gpt
from mini import assistant, llama
from mini.data.text import chat
from mini.data.text.pieces import PieceTokenizer, as_read
from mini.data.text.questions import (ALONE, NO_SUCH_ENTRY, TOO_LONG, Dialogue, Writer,
                                      known_words)
from mini.data.text.tools import ERROR, NO_ENTRY
from mini.studies import assistant as study
from mini.utils.config import UserError
from tests.helpers import ROOT, refused_by
from tests.test_llama import configure, publish

TOKENIZER = PieceTokenizer(known_words())
TINY = dict(n_layer=1, n_head=2, n_embd=16, n_dialogues=200, batch_size=4, steps=6, eval_every=3,
            sample_every=3, log_every=1, n_test=10, warmup=2, device="cpu", matmul="highest",
            dropout=0.1, fused=False)


def tiny(tmp_path, **changes):
    return assistant.Config(**{**TINY, "out_dir": str(tmp_path / "run"), **changes})


def small_model(seed=0, **sizes):
    """A random network whose weights are far from their start, biases included."""
    cfg = assistant.Config(**{**dict(n_layer=2, n_head=2, n_embd=32, fused=False, seed=seed),
                              **sizes})
    model = assistant.make_model(cfg, known_words())
    for p in model.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    return model


class Scripted(torch.nn.Module):
    """In place of a model: it writes given texts, whatever it reads, and notes what it has read."""

    def __init__(self, *texts, block_size=192):
        super().__init__()
        self.tokenizer = TOKENIZER
        self.cfg = assistant.Config(block_size=block_size)
        self.device = torch.device("cpu")
        self.read = []
        self.tokens = [i for text in texts for i in TOKENIZER.encode(text)]

    def forward(self, idx):
        self.read = idx[0].tolist()
        token = self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0]
        return F.one_hot(torch.full(idx.shape, token), TOKENIZER.vocab_size).float()

    def has_read(self):
        return TOKENIZER.decode(self.read)


# ---- the loss

CHAIN = Dialogue("scaled", "What is twice the area of Spain?", "1012000 km2",
                 [("lookup(area of Spain)", "506000 km2"), ("calculator(506000*2)", "1012000")])


def test_only_what_the_assistant_writes_is_a_target():
    """With the tools' values among the targets, most of the loss is spent on digits that nobody can
    predict."""
    x, y = assistant.encode_dialogues(TOKENIZER, [CHAIN.pieces(), CHAIN.alone()])
    for row, targets, pieces, text in zip(
            x.tolist(), y.tolist(), (CHAIN.pieces(), CHAIN.alone()),
            ("lookup(area of spain)=calculator(506000*2)=1012000 km2\n", "1012000 km2\n")):
        assert TOKENIZER.decode([t for t in targets if t != assistant.IGNORED]) == text
        tokens = []
        is_assistant = []
        for piece, mine in pieces:
            tokens += TOKENIZER.encode(piece)
            is_assistant += [mine] * len(TOKENIZER.encode(piece))
        n = len(tokens) - 1
        assert row[:n] == tokens[:-1]
        assert targets[:n] == [token if mine else assistant.IGNORED        # one token later
                               for token, mine in zip(tokens[1:], is_assistant[1:])]
        assert set(targets[n:]) <= {assistant.IGNORED}                      # the filling


def test_the_loss_is_the_mean_over_the_assistants_tokens():
    """By hand, token by token, from the logits of all positions."""
    model = small_model()
    dialogues = [Writer(1).write().pieces() for _ in range(3)]
    x, y = assistant.encode_dialogues(TOKENIZER, dialogues)
    log_p = F.log_softmax(model(x.long()), dim=2)
    total = 0.0
    count = 0
    for b, pieces in enumerate(dialogues):
        t = 0
        for text, mine in pieces:
            for token in TOKENIZER.encode(text):
                if mine:
                    total -= log_p[b, t - 1, token].item()
                    count += 1
                t += 1
    loss = assistant.assistant_loss(model, x.long(), y.long())
    assert loss.item() == pytest.approx(total / count, rel=1e-5)


def test_logits_where_they_are_wanted_are_those_of_the_whole():
    model = small_model()
    idx = torch.randint(TOKENIZER.vocab_size, (3, 20))
    wanted = torch.rand(3, 20) < 0.4
    whole = model(idx)
    assert torch.equal(whole, train_gpt.GPT.forward(model, idx))
    assert torch.allclose(model(idx, wanted=wanted), whole[wanted], rtol=0, atol=1e-5)


def test_nothing_that_comes_later_changes_the_loss_of_a_token():
    """Filling at the end of a row does not, either."""
    model = small_model()
    x, y = assistant.encode_dialogues(TOKENIZER, [CHAIN.pieces()])
    longer = F.pad(x, (0, 9), value=7).long(), F.pad(y, (0, 9), value=assistant.IGNORED).long()
    assert assistant.assistant_loss(model, *longer).item() == pytest.approx(
        assistant.assistant_loss(model, x.long(), y.long()).item(), rel=1e-5)


def test_batches_hold_whole_dialogues_of_like_length():
    x, y = assistant.encode_dialogues(TOKENIZER, Writer(0).training_set(300, 0.2))
    rows = {tuple(row) for row in torch.cat([x, y], dim=1).tolist()}
    rng = torch.Generator().manual_seed(0)
    spreads = []
    for _ in range(60):
        a, b = assistant.get_batch(x, y, 4, rng)
        missing = x.size(1) - a.size(1)
        assert a.dtype == b.dtype == torch.int64
        assert (b[:, -1] != assistant.IGNORED).any()
        whole = torch.cat([F.pad(a, (0, missing)),
                           F.pad(b, (0, missing), value=assistant.IGNORED)], dim=1)
        assert all(tuple(row) in rows for row in whole.tolist())
        lengths = assistant.lengths(b)
        spreads.append((lengths.max() - lengths.min()).item())
    assert sum(spreads) / len(spreads) < 15                 # of up to a hundred


# ---- the loop

def no_cache(**changes):
    return assistant.Config(cache=False, **changes)


def test_the_loop_runs_the_tools_and_feeds_their_answers_back():
    model = Scripted("lookup(capital of france)=", "calculator(2*calculator(3+4))=", "paris\n")
    answer, steps = assistant.respond(model, "  Où  est-ce?\n", no_cache())
    assert answer == "Paris"                                # spelled as the tool did
    assert steps == [("lookup(capital of france)", "Paris"),
                     ("calculator(2*calculator(3+4))", "14")]
    assert model.has_read() == ("ou est-ce?\nlookup(capital of france)=paris\n"
                                "calculator(2*calculator(3+4))=14\nparis")


def test_calls_are_reported_as_they_are_made():
    seen = []
    model = Scripted("calculator(1+1)=", "calculator(2+2)=", "4\n")
    note = lambda call, value: seen.append((call, value, model.has_read()))     # noqa: E731
    answer, steps = assistant.respond(model, "Q", no_cache(), on_call=note)
    assert [row[:2] for row in seen] == steps and answer == "4"
    assert seen[0][2] == "q\ncalculator(1+1)" and seen[1][2].endswith("=2\ncalculator(2+2)")


@pytest.mark.parametrize("call, value", [
    ("calculator(9**9**9)", ERROR + "too large"), ("calculator(1/0)", ERROR + "division by zero"),
    ("lookup(capital of atlantis)", NO_ENTRY), ("rm(1)", ERROR + "no such tool")])
def test_errors_of_tools_are_read_too(call, value):
    model = Scripted(call + "=", "sorry\n")
    assert assistant.respond(model, "Q", no_cache()) == ("sorry", [(call, value)])
    assert f"={value}\n" in model.has_read()


def test_a_refusal_is_a_sentence_with_its_capitals():
    model = Scripted("lookup(capital of atlantis)=", as_read(NO_SUCH_ENTRY) + "\n")
    assert assistant.respond(model, "CAPITAL OF ATLANTIS", no_cache())[0] == NO_SUCH_ENTRY


def test_the_number_of_calls_and_the_context_are_bounded(tmp_path):
    steps = [("calculator(1+1)", "2"), *[("", ERROR + "no such tool")] * 2]
    answer = assistant.respond(Scripted("calculator(1+1)="), "Q", no_cache(max_calls=3))
    assert answer == (TOO_LONG, steps)
    model = Scripted("x")
    assert assistant.respond(model, "Q", no_cache()) == (TOO_LONG, [])
    assert len(model.read) == 192
    path = tmp_path / "facts.tsv"
    path.write_text("B\ta\t" + "zq" * 5000 + "\n")                  # longer than the context
    answer, steps = assistant.respond(Scripted("lookup(a of b)=", "x\n"), "Q", no_cache(),
                                      facts=str(path))
    assert answer == TOO_LONG and len(steps) == 1


def test_without_tools_nothing_is_run():
    model = Scripted("1 = 1\n")
    assert assistant.respond(model, "Q", no_cache(tools=False)) == ("1 = 1", [])
    assert model.has_read() == f"q\n{ALONE}1 = 1"


def test_cached_equals_uncached_and_reads_each_token_once():
    for seed in range(6):
        model = small_model(seed)
        model.wte.weight.data[[TOKENIZER.index[c] for c in "=\n"]] *= 3     # it calls, and ends
        question = Writer(seed).write().question
        sizes = []
        embed = model.embed

        def counting(idx, *args, **kw):
            sizes.append(idx.size(1))
            return embed(idx, *args, **kw)

        model.embed = counting
        cached = assistant.respond(model, question, assistant.Config())
        n_cached = len(sizes)
        assert cached == assistant.respond(model, question, no_cache())
        assert sizes[0] > 1 and sum(sizes[:n_cached]) <= 192
        assert sum(sizes[:n_cached]) < sum(sizes[n_cached:]) or n_cached < 3


def test_right_at_every_position_means_that_the_loop_writes_the_same():
    """A network that learns eight dialogues by heart: `all_right` agrees with `respond` at every
    stage, and at the end all are right."""
    writer = Writer(4, ("entities",))
    dialogues = [writer.write() for _ in range(8)]
    model = small_model(n_layer=1, n_embd=64)
    x, y = assistant.encode_dialogues(TOKENIZER, [d.pieces() for d in dialogues])
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    agreed = []
    for step in range(41):
        if step in (0, 4, 8, 12, 40):
            for d, is_right in zip(dialogues, assistant.all_right(model, x, y, at_once=3)):
                answer, steps = assistant.respond(model, d.question, assistant.Config())
                same = [(as_read(call), as_read(value)) for call, value in d.steps]
                found = [(call, as_read(value)) for call, value in steps]
                assert is_right == (as_read(answer) == as_read(d.answer) and found == same)
                agreed.append(is_right)
        loss = assistant.assistant_loss(model, x.long(), y.long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert not any(agreed[:8]) and all(agreed[-8:]) and loss < 0.1


# ---- held-out sets

def test_held_out_sets():
    model = small_model()
    for name, new in assistant.SETS.items():
        test = assistant.make_test_set(name, 20, model)
        writer = Writer(1, new)
        assert test.dialogues == [writer.write() for _ in range(20)]
        for x, y in (test.with_tools, test.without):
            assert len(x) == len(y) == 20 and x.size(1) <= assistant.Config().block_size


def test_every_training_dialogue_fits_in_the_context():
    writer = Writer(0)
    longest = max(len(TOKENIZER.encode(writer.write().text())) for _ in range(3000))
    assert longest <= assistant.Config().block_size


def test_the_held_out_sets_are_as_large_as_asked_for():
    model = SimpleNamespace(tokenizer=TOKENIZER, device=torch.device("cpu"))
    for changes, n in (({}, 500), (dict(steps=3), 100), (dict(n_test=3), 3),
                       (dict(n_test=600, steps=3), 600)):
        tests = assistant.make_test_sets(assistant.Config(**changes), model)
        assert {len(test.dialogues) for test in tests.values()} == {n}


def test_the_optimisers_train_every_parameter_once():
    model = small_model()
    optimizers = assistant.make_optimizers(model, model.cfg)
    trained = [p for optimizer in optimizers for group in optimizer.param_groups
               for p in group["params"]]
    assert sorted(map(id, trained)) == sorted(map(id, model.parameters()))
    by_muon = [p for group in optimizers[1].param_groups for p in group["params"]]
    assert {id(p) for p in by_muon} == {id(p) for p in model.h.parameters() if p.ndim == 2}


def test_the_learning_rate_rises_stays_and_falls():
    cfg = assistant.Config(steps=1000, warmup=10, hold=0.4)
    factors = [assistant.lr_factor(step, cfg) for step in range(1000)]
    assert factors[:10] == sorted(factors[:10]) and 0 < factors[0] < 0.1
    assert set(factors[10:405]) == {1.0}
    assert factors[405:] == sorted(factors[405:], reverse=True) and 0 < factors[-1] < 0.01


# ---- the run

def test_end_to_end(tmp_path, capsys):
    result = assistant.train(tiny(tmp_path))
    run = tmp_path / "run"
    assert set(result["exact_match"]) == set(assistant.SETS)
    assert all(set(row) == {"with tools", "without"} for row in result["exact_match"].values())
    assert (run / "samples/step_000003.txt").read_text()
    out = capsys.readouterr().out
    assert "ln V" in out and "new entities: " in out and "without tools" in out
    args = [f"--out_dir={run}", "--device=cpu"]
    prompt = "--prompt=What is 1 plus 2?"
    assert isinstance(assistant.main(["sample", *args, prompt]), str)
    assert isinstance(assistant.main(["sample", *args, prompt, "--tools=false"]), str)
    assert result["n"] == 10 and "scoring 10 questions of each held-out set" in out
    tables = assistant.main(["evaluate", *args, "--n_test=12"])
    assert json.loads((run / "evaluate.json").read_text()) == tables
    shares = tables["answers,_new_all_three"]
    assert set(shares) == {"right", "refused", "wrong"} and sum(shares.values()) == pytest.approx(1)
    assert {"new_numbers,_by_kind", "new_numbers,_by_longest"} <= set(tables)


def test_shares_of_groups_that_are_large_enough():
    right = [True, False] * 6 + [True] * 3
    found = study.by_group(["a"] * 12 + ["b"] * 3, right, group=lambda dialogue: dialogue)
    assert found == {"a": 0.5}                                  # three of b say too little


# ---- the chat, and bad input: one line, exit status 2, no traceback, nothing lost

refused = partial(refused_by, assistant.main)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assistant")
    assistant.train(tiny(folder, steps=1))
    return f"--out_dir={folder}/run"


def test_a_chat_goes_on_until_the_input_ends(trained, monkeypatch, capsys):
    plain = assistant.respond

    def respond(model, question, cfg, facts, on_call):
        if question == "1+1":
            on_call("calculator(1+1)", "2")
            return "2", [("calculator(1+1)", "2")]
        if question == "hello":
            return "Hello!", []
        return plain(model, question, cfg, facts, on_call)

    monkeypatch.setattr(assistant, "respond", respond)
    lines = b"hello\n\n  \n" + b"x" * 10000 + b"\n\xff\xfe?\n1+1"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines), encoding="utf-8"))
    assert assistant.main(["sample", trained, "--device=cpu"]) == "2"
    out = capsys.readouterr().out
    assert "> " in out and "  Hello!\n" in out and "    calculator(1+1) = 2\n  2\n" in out
    assert "(the question has 10,000 characters" in out and "Traceback" not in out


def test_a_chat_with_another_input(trained, monkeypatch, capsys):
    """Python has no stdin where it was closed (<&-), and in IDLE one that cannot be reconfigured: a traceback."""
    monkeypatch.setattr(assistant, "respond", lambda *args: ("Yes.", []))
    monkeypatch.setattr("sys.stdin", None)
    assert "ask one by --prompt" in refused(capsys, "sample", trained, "--device=cpu")
    monkeypatch.setattr("sys.stdin", io.StringIO("is it so?\n"))
    assert assistant.main(["sample", trained, "--device=cpu"]) == "Yes."


def test_strange_prompts_are_answered_soon(trained, capsys):
    for prompt in ("What is 9**9**9?", "calculator(9**9**9)", "1/0", "日本の首都は?", "=" * 50, "~",
                   "calculator(calculator(2+3)*4)", "\\n\\n", "('" * 20, "½ × 3²"):
        start = time.perf_counter()
        answer = assistant.main(["sample", trained, "--device=cpu", f"--prompt={prompt}"])
        assert isinstance(answer, str)
        assert time.perf_counter() - start < 5      # on a busy machine; a quiet one takes a tenth
    long = refused(capsys, "sample", trained, "--device=cpu", "--prompt=" + "x" * 10000)
    assert "10,000 characters" in long
    assert "no question" in refused(capsys, "sample", trained, "--device=cpu", "--prompt=  ")


def test_ctrl_c_leaves_cleanly(trained, tmp_path):
    chat = subprocess.Popen(
        [sys.executable, "-m", "mini.assistant", "sample", trained, "--device=cpu"], cwd=ROOT,
        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a shell's & ignores it
    while ">" not in chat.stdout.read(1):
        pass
    chat.send_signal(signal.SIGINT)
    assert chat.wait(timeout=30) == 130     # its input is still open: else it may see its end first
    assert chat.communicate()[1] == ""


def test_your_own_facts(trained, tmp_path, capsys, monkeypatch):
    path = tmp_path / "facts.tsv"
    path.write_text("Atlantis\tcapital\tPoseidonis\n")
    asked = []
    monkeypatch.setattr(assistant, "respond", lambda *a: asked.append(a[3]) or ("x", []))
    sample = ["sample", trained, "--device=cpu", "--prompt=Q"]
    assistant.main([*sample, f"--data={path}"])
    assert asked == [str(path)]
    assert "no such file" in refused(capsys, *sample, f"--data={tmp_path}/none.tsv")
    assert "for sample" in refused(capsys, f"--data={path}", f"--out_dir={tmp_path}/other")


def test_bad_sizes(tmp_path, capsys):
    run = [f"--out_dir={tmp_path}/run", "--device=cpu", "--steps=1"]
    for flag, word in (("n_embd=6", "--n_head"), ("n_dialogues=0", "--n_dialogues"),
                       ("batch_size=0", "--batch_size"), ("max_calls=0", "--max_calls"),
                       ("alone=1", "--alone"), ("block_size=64", "--block_size"),
                       ("n_test=-1", "--n_test"), ("hold=1", "--hold")):
        assert word in refused(capsys, *run, f"--{flag}")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError):
        assistant.respond(Scripted("x"), "", assistant.Config())


# ---- a published chat model in place of ours

def published_model(tmp_path, chat_format="qwen2.5", tokenizer="qwen2", context=2048) -> str:
    """The flag --model= of a folder with random weights, as it would be downloaded."""
    folder = tmp_path / chat_format
    publish(folder, tokenizer)
    configure(folder, max_position_embeddings=context)
    template = {"chat_template": dict(chat.SIGNS)[chat_format]}
    (folder / "tokenizer_config.json").write_text(json.dumps(template))
    return f"--model={folder}"


def write_this(monkeypatch, *texts) -> list:
    """Let a published model write these texts, one after the other, and then the last again and
    again. Returns a list to which each prompt is added that it reads, as numbers of tokens."""
    waiting = list(texts)
    read = []

    def generate(model, idx, max_new_tokens, stop=(), **_):
        read.append(idx[0].tolist())
        text = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        ids = written_by.encode(text) + [stop[0]]
        return torch.cat([idx, torch.tensor([ids])], dim=1)

    def load(cfg):
        nonlocal written_by
        model, written_by = plain_load(cfg)
        return model, written_by

    written_by = None
    plain_load = llama.load
    monkeypatch.setattr(llama, "load", load)
    monkeypatch.setattr(llama, "generate", generate)
    return read


def as_written(name: str, chat_format: str, **arguments) -> str:
    """A call in the words of a family of models."""
    if chat_format == "llama3":
        return json.dumps({"name": name, "parameters": arguments})
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


@pytest.mark.parametrize("chat_format, tokenizer", [("qwen2.5", "qwen2"), ("qwen3", "qwen2"),
                                                    ("llama3", "llama3")])
def test_a_published_model_uses_the_same_tools(chat_format, tokenizer, tmp_path, monkeypatch,
                                               capsys):
    """What is scripted is what the model writes. That it reads its tools, its own calls and their
    values, each in the words of its family, is the whole thing: a value that is shown to the user
    and not to the model looks all right until one reads the answer."""
    call = partial(as_written, chat_format=chat_format)
    calls = [call("lookup", key="length of Nile"), call("lookup", key="length of the Amazon"),
             call("calculator", expression="6650-6400")]
    read = write_this(monkeypatch, *calls, "It is 250 km longer.")
    flag = published_model(tmp_path, chat_format, tokenizer)
    question = "How much longer is the Nile than the Amazon?"
    answer = assistant.main(["sample", flag, f"--prompt={question}", "--device=cpu"])
    assert answer == "It is 250 km longer."
    assert capsys.readouterr().out.endswith(
        f"{question}\n    lookup(length of Nile) = 6650 km\n    lookup(length of the Amazon) = "
        "6400 km\n    calculator(6650-6400) = 250\n  It is 250 km longer.\n")

    _, reader = llama.load(llama.Config(init_from=flag.removeprefix("--model="), device="cpu"))
    values = ["6650 km", "6400 km", "250"]
    messages = [{"role": "user", "content": question}]
    for ids, text, value in zip(read, calls, values):
        expected = chat.FORMATS[chat_format](messages, assistant.TOOLS)
        assert reader.decode(ids) == expected
        assert question in expected and "6650>6400" in expected         # how a tool is described
        messages.append({"role": "assistant", "content": "",
                         "tool_calls": chat.parse_tool_calls(text, chat_format)})
        messages.append({"role": "tool", "content": value})
    assert reader.decode(read[3]) == chat.FORMATS[chat_format](messages, assistant.TOOLS)


def test_strange_calls_of_a_published_model_get_an_answer(tmp_path, monkeypatch, capsys):
    """It may name tools that are not there, and give them anything: nothing is run but ours."""
    call = partial(as_written, chat_format="qwen3")
    calls = [call("exec", code="1"), call("calculator"), call("calculator", expression=17, x=[3]),
             call("lookup", key="height of K2\x1b[2J"), call("calculator", expression="9**9**9")]
    read = write_this(monkeypatch, *calls, "Sorry.")
    flags = [published_model(tmp_path, "qwen3"), "--prompt=Q", "--device=cpu"]
    assert assistant.main(["sample", *flags]) == "Sorry."
    out = capsys.readouterr().out
    assert f"exec(1) = {ERROR}no such tool" in out and "calculator() = " + ERROR in out
    assert "calculator(17, [3]) = " + ERROR in out and "\x1b" not in out
    assert "height of K2\\x1b[2J) = " in out and f"= {ERROR}too large" in out and len(read) == 6


def test_a_published_model_stops(tmp_path, monkeypatch, capsys):
    """Random weights that never end an answer, after max_new_tokens; one that only calls, after
    --max_calls."""
    question = ["sample", published_model(tmp_path), "--prompt=Who?", "--device=cpu"]
    lengths = []
    plain = llama.generate

    def generate(model, idx, *args, **options):
        longer = plain(model, idx, *args, **{**options, "stop": ()})
        lengths.append(longer.size(1) - idx.size(1))
        return longer

    with monkeypatch.context() as patched:
        patched.setattr(llama, "generate", generate)
        for more in ([], ["--tools=false"]):
            assert isinstance(assistant.main([*question, *more]), str)
    assert lengths == [llama.Config.max_new_tokens] * 2
    capsys.readouterr()

    write_this(monkeypatch, as_written("calculator", "qwen2.5", expression="1+1"))
    assert assistant.main([*question, "--max_calls=3", "--cache=false"]) == TOO_LONG
    assert capsys.readouterr().out.count("    calculator(1+1) = 2\n") == 3


def test_a_published_model_without_tools_is_asked_without(tmp_path, monkeypatch, capsys):
    """What it writes is the answer then, also if it looks like a call. Formats that have no tools
    are refused before the first question, unless --tools=false."""
    text = as_written("calculator", "qwen2.5", expression="1+1")
    read = write_this(monkeypatch, text)
    flags = ["sample", published_model(tmp_path), "--prompt=Q", "--device=cpu"]
    assert assistant.main([*flags, "--tools=false"]) == text
    _, tokenizer = llama.load(llama.Config(init_from=str(tmp_path / "qwen2.5"), device="cpu"))
    assert "calculator" not in tokenizer.decode(read[0])
    flags[1] = published_model(tmp_path, "tinyllama", "tinyllama")
    assert "tinyllama, has no tools" in refused(capsys, *flags)
    assert assistant.main([*flags, "--tools=false"]) == text


def test_a_chat_with_a_published_model(tmp_path, monkeypatch, capsys):
    """Each question stands alone, as with ours; one that is too long does not end it."""
    read = write_this(monkeypatch, "One.", "Two.")
    typed = io.TextIOWrapper(io.BytesIO(b"first\n" + b"x y z " * 3000 + b"\nsecond\n"))
    monkeypatch.setattr("sys.stdin", typed)
    flag = published_model(tmp_path)
    assert assistant.main(["sample", flag, "--device=cpu"]) == "Two."
    out = capsys.readouterr().out
    assert "  One.\n" in out and "(the question, with all calls, is too long" in out
    _, tokenizer = llama.load(llama.Config(init_from=str(tmp_path / "qwen2.5"), device="cpu"))
    assert len(read) == 2 and "first" not in tokenizer.decode(read[1])


def test_what_no_published_model_can_do(tmp_path, trained, capsys):
    flag = published_model(tmp_path)
    run = [f"--out_dir={tmp_path}/run", "--device=cpu"]
    assert "--model is for sample" in refused(capsys, flag, *run, "--steps=1", "--n_dialogues=9")
    assert "--model is for sample" in refused(capsys, "evaluate", flag, trained)
    assert not (tmp_path / "run").exists()
    ask = ["sample", "--prompt=Q", "--device=cpu"]
    assert "no question" in refused(capsys, "sample", flag, "--prompt= ", "--device=cpu")
    (tmp_path / "empty").mkdir()
    for folder in ("none", "empty"):
        assert f"{tmp_path}/{folder}" in refused(capsys, *ask, f"--model={tmp_path}/{folder}")
    own = trained.removeprefix("--out_dir=")
    assert "assistant" in refused(capsys, *ask, f"--model={own}")
    assert "no such file" in refused(capsys, *ask, flag, f"--data={tmp_path}/none.tsv")
