"""An assistant that uses tools: a small GPT learns what to ask a calculator and an encyclopedia.

A language model is poor at arithmetic, and it knows no fact that it was not trained on. But it can
learn to write calls. When it has written "=", the loop runs the tool and puts the tool's answer
into the text. Then the model goes on writing:

    is the nile longer than the amazon?         the user's line
    lookup(length of nile)=6650 km              the model writes up to "=", the tool what follows
    lookup(length of amazon)=6400 km
    calculator(6650>6400)=yes
    yes: 6650 km against 6400 km                a line without "=" is the answer

The network is that of train_gpt.py. Only what the assistant writes is learnt. What the user and the
tools write is read, but is never a target. So with M the positions of the assistant's tokens,

    L = −1/|M| · Σ_{t ∈ M} log p(xₜ | x₁ … xₜ₋₁)        in nats

The model need not know a name or a number: it has to copy it. So most names in its training are
made up, and a name is spelt in pairs of letters, ki·li·ma·nj·ar·o, few of which come twice in it:
then it is clear which one comes next (mini/data/text/pieces.py).

Shapes: B dialogues of T tokens in a batch, V tokens to choose from.

Papers: Schick et al. 2023, "Toolformer: Language Models Can Teach Themselves to Use Tools",
https://arxiv.org/abs/2302.04761, and Cobbe et al. 2021, "Training Verifiers to Solve Math Word
Problems" (its calculator answers at "=", §4), https://arxiv.org/abs/2110.14168. Our departures:
- The dialogues are written by a grammar (mini/data/text/questions.py), not by people. Toolformer
  lets a large model put calls into its own text, and keeps those that make the text likelier.
- So each question has one right row of calls, and a run can be scored exactly.
- The model reads and writes small letters; capitals are put back afterwards.

    python -m mini.assistant                                    train
    python -m mini.assistant sample                             a chat; Ctrl-D ends it
    python -m mini.assistant sample --prompt="How high is Mont Blanc in feet?"
    python -m mini.assistant sample --data=my_facts.tsv         other facts, without training again
    python -m mini.assistant sample --model=Qwen2.5-0.5B-Instruct       published weights answer
    python -m mini.assistant evaluate                           by kind, by number of calls, …

Measured times and scores: README.md. Read before: train_gpt.py. Read next: mini/clip.py.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

# the network, and its way to read each token only once; and for --model a published network
from train_gpt import GPT, CachedGPT
from mini import llama
# dialogues, their tokens, the two tools, the command line, devices, the optimiser Muon, scores, the
# folder of a run: this file can be followed without reading them
from mini.data.text.chat import (WITH_TOOLS, answer_with_tools, describe_tool, format_of,
                                 parse_tool_calls)
from mini.data.text.pieces import PieceTokenizer, as_read, spelled
from mini.data.text.questions import ALONE, HELD_OUT, SENTENCES, TOO_LONG, Writer, known_words
from mini.data.text.tools import FACTS, read_facts, run_call
from mini.utils import metrics
from mini.utils.chat import chat_lines
from mini.utils.config import (RunConfig, UserError, command_line, printable, require,
                               require_positive)
from mini.utils.device import autocast, pick_device
from mini.utils.fast_vectors import fast_vectors
from mini.utils.optim import Muon
from mini.utils.run import Run, own_checkpoint, restore

# ---- dialogues as tokens, and batches of them

IGNORED = -100      # as a target: not to be predicted


def encode_dialogues(tokenizer, dialogues: list):
    """x and y (N, T) of N dialogues. Each is a list of (text, does the assistant write it?).

    y[n, t] is the token after x[n, t] if the assistant writes it, and else IGNORED.
    """
    x_rows = []
    y_rows = []
    for pieces in dialogues:
        ids = []
        targets = []
        for text, is_assistant in pieces:
            tokens = tokenizer.encode(text)
            ids += tokens
            targets += tokens if is_assistant else [IGNORED] * len(tokens)
        x_rows.append(torch.tensor(ids[:-1], dtype=torch.int16))        # 2 bytes a token
        y_rows.append(torch.tensor(targets[1:], dtype=torch.int16))
    pad = nn.utils.rnn.pad_sequence
    x = pad(x_rows, batch_first=True)
    y = pad(y_rows, batch_first=True, padding_value=IGNORED)
    return x, y


def lengths(y):
    """(N,): the number of tokens of each dialogue, of targets y (N, T). The assistant has the last
    word, so what comes after its last target only fills up the row."""
    position = torch.arange(1, y.size(1) + 1, device=y.device)
    return ((y != IGNORED) * position).amax(dim=1)


def get_batch(x, y, batch_size: int, generator):
    """B random dialogues of x, y (N, T): two tensors (B, T'), T' the length of the longest.

    They are of about the same length, so that there is little filling: 8 B dialogues are drawn and
    sorted by length, and one eighth of them is taken.
    """
    i = torch.randint(len(x), (8 * batch_size,), generator=generator).to(x.device)
    eighth = torch.randint(8, (1,), generator=generator).item()
    by_length = lengths(y[i]).argsort(stable=True)
    chosen = i[by_length[eighth * batch_size:(eighth + 1) * batch_size]]
    longest = lengths(y[chosen]).max()
    return x[chosen, :longest].long(), y[chosen, :longest].long()


# ---- the network and the loss

class Assistant(GPT):
    """The GPT of train_gpt.py, which can leave out its last layer where nothing is predicted. Half
    of the positions have no target, and with many tokens to choose from this layer is large."""

    def forward(self, idx, wanted=None):
        """Logits (B, T, V) of the token after each of the tokens idx (B, T); or logits (M, V) of
        the M positions that are True in wanted (B, T)."""
        x = self.hidden(idx)                                    # (B, T, C)
        if wanted is not None:
            x = x[wanted]                                       # (B, T, C) -> (M, C)
        return self.lm_head(x)


def assistant_loss(model, x, y):
    """−log p(y | x) in nats, the mean over the tokens that the assistant writes, for tokens x and
    targets y (B, T)."""
    is_target = y != IGNORED
    logits = model(x, wanted=is_target)                         # (M, V)
    return F.cross_entropy(logits.float(), y[is_target])        # (M, V), (M,)


# ---- answering: the loop that runs the tools

@torch.inference_mode()
def respond(model, question: str, cfg, facts=FACTS, on_call=None):
    """(answer, [(call, the tool's value), …]) to a question.

    The model always takes the likeliest token. on_call(call, value) is called after each call.
    Without cfg.tools, the model is told to answer at once. The answer is TOO_LONG if the context is
    full before the answer ends, or if cfg.max_calls calls are not enough. Raises UserError for an
    empty question, and for one longer than half of the context.
    """
    tokenizer = model.tokenizer
    T = model.cfg.block_size
    text = as_read(question)
    ids = tokenizer.encode(f"{text}\n" if cfg.tools else f"{text}\n{ALONE}")
    require(text, "there is no question")
    require(len(ids) <= T // 2,
            f"the question has {len(question):,} characters, too many: ask for less")
    was_training = model.training
    model.eval()                                                # no dropout
    reader = CachedGPT(model) if cfg.cache else model           # the same logits, faster

    answer = TOO_LONG
    steps = []
    line = ""
    while len(ids) <= T:
        logits = reader(torch.tensor([ids], device=model.device))[0, -1]        # (V,)
        token = logits.argmax().item()
        ids.append(token)
        line += tokenizer.decode([token])
        if line.endswith("\n"):                                 # the answer is complete
            sources = [question, *(value for _, value in steps)]
            answer = spelled(line.removesuffix("\n"), sources, SENTENCES)
            break
        if line.endswith("=") and cfg.tools:                    # a call is complete
            if len(steps) == cfg.max_calls:
                break
            call = line.removesuffix("=")
            value = run_call(call, facts)
            steps.append((call, value))
            if on_call is not None:
                on_call(call, value)
            ids += tokenizer.encode(f"{as_read(value)}\n")
            line = ""
    model.train(was_training)
    return answer, steps


# ---- scores

@torch.inference_mode()
def all_right(model, x, y, at_once: int = 128) -> list:
    """For each of N dialogues x, y (N, T): would the model write exactly these calls and this
    answer?

    It reads the right text here, all at once. If the likeliest token is right at every position,
    then `respond` writes the same, one token after another.
    """
    was_training = model.training
    model.eval()
    right = []
    progress = metrics.Progress("dialogues read:", len(x))
    for x_i, y_i in zip(x.split(at_once), y.split(at_once)):
        longest = lengths(y_i).max()
        y_i = y_i[:, :longest]
        best = model(x_i[:, :longest].long()).argmax(dim=2)     # (B, T, V) -> (B, T)
        is_right = (best == y_i) | (y_i == IGNORED)
        right += is_right.all(dim=1).tolist()
        progress.add(len(x_i))
    model.train(was_training)
    return right


def share(right: list) -> float:
    return sum(right) / len(right)


# What is new in each held-out set.
SETS = {"numbers": ("numbers",), "entities": ("entities",), "phrasings": ("phrasings",),
        "all three": HELD_OUT}
N_TEST = 500        # questions in each held-out set, if --n_test is 0


@dataclass
class TestSet:
    """Questions in which something is new to the model, with the right calls and answers."""
    dialogues: list
    with_tools: tuple           # x, y as `encode_dialogues` gives them
    without: tuple              # the same for answers without tools


def make_test_set(name: str, n: int, model) -> TestSet:
    """n questions of the set of this name."""
    writer = Writer(seed=1, new=SETS[name])
    dialogues = [writer.write() for _ in range(n)]

    def encoded(pieces):
        x, y = encode_dialogues(model.tokenizer, pieces)
        return x.to(model.device), y.to(model.device)

    return TestSet(dialogues, with_tools=encoded([d.pieces() for d in dialogues]),
                   without=encoded([d.alone() for d in dialogues]))


def make_test_sets(cfg, model) -> dict:
    """{name: TestSet} of all SETS, with as many questions as --n_test says (see Config)."""
    n = cfg.n_test or metrics.n_to_score(cfg, N_TEST, "questions of each held-out set")
    return {name: make_test_set(name, n, model) for name in SETS}


# ---- optimisers and the learning rate

def make_optimizers(model, cfg) -> list:
    """[AdamW, Muon]: Muon for the matrices of the blocks, AdamW for all other parameters."""
    qkv = [block.attn.c_attn.weight for block in model.h]       # three matrices stored as one
    other_matrices = []
    for block in model.h:
        other_matrices += [block.attn.c_proj.weight, block.mlp.c_fc.weight,
                           block.mlp.c_proj.weight]
    by_muon = {id(p) for p in qkv + other_matrices}
    rest = [p for p in model.parameters() if id(p) not in by_muon]
    adamw = torch.optim.AdamW(
        [{"params": [p for p in rest if p.ndim >= 2], "weight_decay": cfg.weight_decay},
         {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0}],     # biases, norms
        lr=cfg.lr, betas=(0.9, cfg.beta2), fused=cfg.fused)
    muon = Muon([{"params": other_matrices}, {"params": qkv, "n_matrices": 3}], lr=cfg.muon_lr,
                momentum=cfg.momentum, weight_decay=cfg.weight_decay)
    return [adamw, muon]


def lr_factor(step: int, cfg) -> float:
    """The learning rate at a step as a fraction of its peak: it rises, stays, and falls in a line
    to 0."""
    if step < cfg.warmup:
        return (step + 1) / (cfg.warmup + 1)
    progress = (step - cfg.warmup) / max(1, cfg.steps - cfg.warmup)     # 0 -> 1
    if progress < cfg.hold:
        return 1.0
    return (1 - progress) / (1 - cfg.hold)


def set_learning_rates(optimizers, cfg, factor: float):
    """Set the rates of AdamW and of Muon to this fraction of their peaks."""
    for optimizer, peak in zip(optimizers, (cfg.lr, cfg.muon_lr)):
        for group in optimizer.param_groups:
            group["lr"] = factor * peak


# ---- settings

@dataclass
class Config(RunConfig):
    # It also has the fields that mean the same in every script: preset, eval_every, sample_every,
    # log_every, seed, device, matmul, compile, resume, stop_after (see mini/utils/config.py).
    #
    # data
    n_dialogues: int = 80000    # dialogues to learn from
    alone: float = 0.06         # share of the dialogues that are answered without tools, to compare
    # model
    block_size: int = 192       # T, the context, in tokens: a whole dialogue must fit in it
    n_layer: int = 4            # blocks
    n_head: int = 4             # attention heads in each block
    n_embd: int = 128           # C, the width
    # optimisation
    steps: int = 2500           # optimiser steps
    batch_size: int = 64        # dialogues in a step
    muon_lr: float = 0.03       # Muon's peak learning rate, for the matrices of the blocks
    lr: float = 0.006           # AdamW's peak learning rate, for all other parameters
    warmup: int = 20            # steps in which the learning rate rises to its peak
    hold: float = 0.4           # then it stays there for this fraction of the rest, and falls to 0
    momentum: float = 0.9       # of Muon: the weight of old gradients in their moving average
    beta2: float = 0.99         # of AdamW: the weight of old squared gradients in their average
    weight_decay: float = 0.0   # of matrices and embeddings
    grad_clip: float = 1.0      # a longer gradient is scaled down to this norm (0: never)
    # of embeddings, attention weights, and what blocks add to x (0 is enough: few dialogues are
    # seen twice)
    dropout: float = 0.0
    # run
    out_dir: str = "runs/assistant"     # folder of the run
    fused: bool = True          # torch's fused kernels for attention and for AdamW
    # questions in each held-out set (0: 500, or proportionally fewer if --steps is below its
    # default)
    n_test: int = 0
    # sampling
    prompt: str = ""            # one question ("": a chat)
    # facts (ours), or your own: a file with lines of entity, tab, property, tab, value
    data: str = "facts"
    tools: bool = True          # use the tools (false: answer without them)
    max_calls: int = 5          # largest number of calls for one answer
    # a published chat model that answers in place of ours: a folder, as for mini.llama --init_from
    model: str = ""
    cache: bool = True          # keep past keys and values: the same text, faster

    # Fields that a resumed run must keep as they were, since the saved weights depend on them.
    fixed = ("n_dialogues", "alone", "block_size", "n_layer", "n_head", "n_embd")

    def __post_init__(self):
        super().__post_init__()
        check(self)


PRESETS = {
    # for a GPU: a larger network that sees more dialogues
    "gpu": dict(n_dialogues=400000, n_layer=6, n_head=6, n_embd=384, batch_size=256, steps=4000),
}


def check(cfg):
    """Raise UserError, naming the flag, for settings that make no sense."""
    require_positive(cfg, "n_dialogues", "n_layer", "n_head", "n_embd", "batch_size", "max_calls")
    require(cfg.n_embd % cfg.n_head == 0,
            f"--n_embd={cfg.n_embd} must be a multiple of --n_head={cfg.n_head}")
    require(0 <= cfg.alone < 1, f"--alone={cfg.alone} must be from 0 to below 1")
    require(0 <= cfg.hold < 1, f"--hold={cfg.hold} must be from 0 to below 1")
    require(cfg.block_size >= Config.block_size,
            f"--block_size={cfg.block_size} is too short for some dialogues; the least is "
            f"{Config.block_size}")


# ---- training

def make_model(cfg, words: list):
    """A new network, which also holds its tokenizer."""
    torch.manual_seed(cfg.seed)
    tokenizer = PieceTokenizer(words)
    model = Assistant(cfg, tokenizer.vocab_size)
    model.tokenizer = tokenizer
    return model


def train(cfg: Config) -> dict:
    """Train, and return what result.json holds. Raises UserError for input that cannot be used."""
    require(cfg.data == "facts", "--data is for sample: other facts need no training")
    require(not cfg.model, "--model is for sample: a published model is not trained here")

    # settings: a run that goes on keeps its own, but for flags that are typed now
    cfg, checkpoint = own_checkpoint(cfg, "assistant", cfg.resume)
    device = pick_device(cfg.device)

    # model
    model = make_model(cfg, checkpoint["words"] if checkpoint else known_words())
    if checkpoint:
        model.load_state_dict(checkpoint["model"])
    model.to(device)
    V = model.tokenizer.vocab_size

    # data, all of it on the device
    dialogues = Writer(seed=0).training_set(cfg.n_dialogues, cfg.alone)
    x, y = encode_dialogues(model.tokenizer, dialogues)
    x = x.to(device)
    y = y.to(device)
    tests = make_test_sets(cfg, model)
    hardest = tests["all three"]
    n_test = len(hardest.dialogues)

    # optimisers, and where the run goes on
    optimizers = make_optimizers(model, cfg)
    data_rng = torch.Generator().manual_seed(cfg.seed)          # for batches
    if checkpoint:
        restore(checkpoint, optimizers, data_rng)               # their averages, all random states
    net = torch.compile(model) if cfg.compile else model

    # run keeps the folder out_dir: it prints and logs, and writes samples, checkpoint and result
    with Run(cfg, "assistant", model, ["loss", "lr", "right"], checkpoint) as run:
        run.say(f"{len(x):,} dialogues to learn from, {n_test:,} in each of {len(tests)} held-out "
                f"sets; a model that knows nothing has loss ln V = ln {V} = {math.log(V):.3f}")
        for step in range(run.first, cfg.steps):
            # learning rate
            factor = lr_factor(step, cfg)
            set_learning_rates(optimizers, cfg, factor)

            # batch
            x_b, y_b = get_batch(x, y, cfg.batch_size, data_rng)

            # loss, backward; products are in bfloat16, if that is faster on this device
            with autocast(device, cfg.matmul):
                loss = assistant_loss(net, x_b, y_b)
            loss.backward()
            loss = loss.item()
            run.check_finite(step, loss=loss)                   # NaN stops here, weights still good

            # step
            if cfg.grad_clip > 0:
                nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)
            with autocast(device, cfg.matmul):                  # Muon's products of matrices, too
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)

            # evaluate, log, sample and save, each when it is due
            done = step + 1
            with run.untimed():                                 # this is not training time
                right = None
                if run.due(done, cfg.eval_every):
                    x_t, y_t = hardest.with_tools
                    right = share(all_right(model, x_t[:200], y_t[:200]))
                if right is not None or run.due(done, cfg.log_every):
                    run.log(done, loss=loss, lr=factor * cfg.lr, right=right)
                if run.due(done, cfg.sample_every):
                    run.write_sample(done, ".txt", answers(model, tests, cfg))
                stopping = run.stopping(done)                   # after Ctrl-C, or --stop_after
                if right is not None or stopping:
                    run.save(done, model, optimizers, data_rng, words=model.tokenizer.words)
            if stopping and done < cfg.steps:
                return run.leave(done)                          # says how to resume

        # scores: the share of questions with all calls and the answer right, and beside it the same
        # model without its tools
        run.say(f"\n{answers(model, tests, cfg)}\n"
                f"scoring {n_test:,} questions of each held-out set, with tools and without …")
        scores = {}
        for name, test in tests.items():
            with_tools = share(all_right(model, *test.with_tools))
            without = share(all_right(model, *test.without))
            scores[name] = {"with tools": with_tools, "without": without}
            run.say(f"new {name}: {with_tools:.1%} right (all calls and the answer); the same "
                    f"model without tools: {without:.1%}")
        return run.finish(n=n_test, exact_match=scores)         # result.json


def answers(model, tests: dict, cfg, n: int = 2) -> str:
    """The model's answers to the first n questions of each set, as text. Below a wrong answer
    stands the right one."""
    lines = []
    for test in tests.values():
        for dialogue in test.dialogues[:n]:
            answer, steps = respond(model, dialogue.question, cfg)
            lines.append(dialogue.question)
            lines += [f"    {call} = {value}" for call, value in steps]
            lines.append(f"  {answer}")
            if as_read(answer) != as_read(dialogue.answer):
                lines.append(f"  wrong: {dialogue.answer}")
    return "\n".join(lines) + "\n"


# ---- using what was trained

def load(cfg):
    """The model of the run in --out_dir. Its cfg is that of the run, with the flags given now."""
    cfg, checkpoint = own_checkpoint(cfg, "assistant")
    model = make_model(cfg, checkpoint["words"])
    model.load_state_dict(checkpoint["model"])
    return model.to(pick_device(cfg.device))


def sample(cfg: Config) -> str:
    """Answer --prompt, or chat: a question on each line, until the input ends. Calls are printed
    as they are made. Returns the last answer."""
    facts = FACTS if cfg.data == "facts" else cfg.data
    read_facts(facts)                                           # a UserError, if it is no such file
    if cfg.model:
        model, tokenizer = load_published(cfg)
        with fast_vectors(model):                               # the same numbers, sooner
            return answer_all(cfg, lambda question: respond_published(
                model, tokenizer, question, cfg, facts, print_call))
    model = load(cfg)
    cfg = model.cfg
    return answer_all(cfg, lambda question: respond(model, question, cfg, facts, print_call))


def answer_all(cfg, ask) -> str:
    """Print the answers to --prompt, or to all that is typed; returns the last.

    ask(question) -> (answer, calls), as `respond` returns them.
    """
    if cfg.prompt:
        print(cfg.prompt)
        answer, _ = ask(cfg.prompt)
        print(f"  {answer}", flush=True)
        return answer

    answer = ""
    for question in chat_lines("Ask for a number or a fact; each question stands alone."):
        try:
            answer, _ = ask(question)
            print(f"  {answer}", flush=True)
        except UserError as error:                              # it does not end a chat
            print(f"  ({error})", flush=True)
    return answer


def print_call(call: str, value: str):
    print(f"    {printable(call)} = {value}", flush=True)


# ---- a published chat model in place of ours
#
# Such a model has learnt to call any tool, in a format of its family. The tools are described to it
# before the question, and each of their values is a message of the conversation. A conversation
# with Qwen 2.5, from the first call to its value:
#
#     <|im_start|>assistant
#     <tool_call>
#     {"name": "lookup", "arguments": {"key": "length of Nile"}}
#     </tool_call><|im_end|>
#     <|im_start|>user
#     <tool_response>
#     6650 km
#     </tool_response><|im_end|>

TOOLS = [
    describe_tool("calculator", "Computes the value of an arithmetic expression.",
                  expression="numbers with + - * / // % ** and parentheses, like 12*(3+4); or a "
                             "comparison of two such expressions, like 6650>6400"),
    describe_tool("lookup", "Looks up a fact in an encyclopedia.",
                  key="a property of an entity, like capital of France, or length of Nile"),
]


def load_published(cfg):
    """(model, tokenizer) of --model. The model writes the likeliest token, and its cfg is that of
    mini/llama.py."""
    model, tokenizer = llama.load(llama.Config(init_from=cfg.model, device=cfg.device,
                                               temperature=0.0))
    name = format_of(tokenizer)
    require(name in WITH_TOOLS or not cfg.tools,
            f"--model={cfg.model}: its chat format, {name}, has no tools; take a model of Qwen "
            "2.5, Qwen 3 or Llama 3.2, or add --tools=false")
    return llama.CachedLlama(model) if cfg.cache else model, tokenizer


def respond_published(model, tokenizer, question: str, cfg, facts=FACTS, on_call=None):
    """As `respond`, with a published model. But an answer is cut off after the max_new_tokens of
    the model's own cfg; it is TOO_LONG only if cfg.max_calls calls are not enough."""
    require(question.strip(), "there is no question")
    chat_format = format_of(tokenizer)
    steps = []

    def reply(messages, tools):
        try:
            return llama.reply(model, tokenizer, messages, tools=tools)
        except UserError:
            raise UserError("the question, with all calls, is too long for the context of this "
                            "model: ask for less") from None

    def run(name, arguments):
        argument = ", ".join(str(value) for value in arguments.values())
        call = f"{name}({argument})"                            # as our own model writes it
        value = run_call(call, facts)
        steps.append((call, value))
        if on_call is not None:
            on_call(call, value)
        return value

    messages = [{"role": "user", "content": question}]
    if not cfg.tools:
        return reply(messages, tools=None), steps
    answer, _ = answer_with_tools(reply, messages, TOOLS, run, chat_format, cfg.max_calls)
    if parse_tool_calls(answer, chat_format):                   # it would go on calling
        answer = TOO_LONG
    return answer, steps


def evaluate(cfg: Config) -> dict:
    """The share of right answers by kind of question, by number of calls, and more: see
    mini/studies/assistant.py."""
    require(not cfg.model, "--model is for sample: our questions are not put to it")
    from mini.studies import assistant  # only this command needs it
    return assistant.evaluate(load(cfg))


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        out_of_memory="lower --batch_size, --block_size, --n_layer, --n_embd or "
                                      "--n_dialogues")


if __name__ == "__main__":
    main()
