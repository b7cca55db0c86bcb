"""What does context buy? The same words predicted with 1, 2, 4, … tokens before them to go by."""
import torch
import torch.nn.functional as F

from mini.data.text.corpus import encode, read_corpus
from mini.utils.charts import line_chart
from mini.utils.metrics import table
from mini.utils.png import write_png
from mini.utils.run import write_json


@torch.no_grad()
def losses_by_context(model, tokens, contexts: list, n: int, seed: int = 0):
    """The losses in nats (len(contexts), n) of n tokens, drawn at random from `tokens`, each
    predicted from the contexts[0], contexts[1], … tokens before it.

    The comparison is paired: every context length is asked for the same n tokens.
    """
    was_training = model.training
    model.eval()
    longest = max(contexts)
    rng = torch.Generator().manual_seed(seed)
    n = min(n, len(tokens) - longest)
    targets = longest + torch.randperm(len(tokens) - longest, generator=rng)[:n].to(tokens.device)

    losses = torch.zeros(len(contexts), n, dtype=torch.float64)
    for i, context in enumerate(contexts):
        before = torch.arange(-context, 0, device=tokens.device)    # −context, …, −2, −1
        for j in range(0, n, 64):
            target = targets[j:j + 64]
            x = tokens[target[:, None] + before]                    # (B, context)
            logits = model(x)[:, -1]                                # (B, V)
            losses[i, j:j + 64] = F.cross_entropy(logits.float(), tokens[target], reduction="none")
    model.train(was_training)
    return losses


@torch.no_grad()
def losses_by_place(model, documents: list):
    """The losses in nats of all tokens of the documents but the first of each, each after all that
    comes before it in its document, and how many tokens that is: two tensors (n,). What lies
    further than block_size tokens in a document is left out. Between two models, the comparison is
    paired."""
    was_training = model.training
    model.eval()
    losses = []
    places = []
    for tokens in documents:
        tokens = tokens[:model.cfg.block_size + 1]
        logits = model(tokens[None, :-1])[0].float()                # (T, V)
        losses.append(F.cross_entropy(logits, tokens[1:], reduction="none").double())
        places.append(torch.arange(1, len(tokens)))
    model.train(was_training)
    return torch.cat(losses).cpu(), torch.cat(places)


def powers_of_two(T: int) -> list:
    """1, 2, 4, … and T."""
    lengths = []
    length = 1
    while length < T:
        lengths.append(length)
        length *= 2
    return [*lengths, T]


def standard_error(x) -> float:
    """Of the mean of the numbers x (n,), taken as independent."""
    return (x.std() / len(x) ** 0.5).item()


def evaluate(model, tokenizer, n: int = 2000) -> dict:
    """Print a table of the held-out loss by what the model has read before, write it to
    evaluate.json, and draw it in samples/context.png.

    Stories are learnt from their beginnings, and asked about there: the loss by the place in the
    story. Any other text: n tokens, each predicted from the 1, 2, 4, … tokens before it; "more"
    says how much more the loss is than with the longest context, and how sure that is: the mean of
    the differences, token by token, and its standard error.
    """
    cfg = model.cfg
    corpus = read_corpus(cfg.data)
    documents = encode(tokenizer, corpus.test or corpus.val, model.device)
    if corpus.stories:
        rows = by_place(model, documents)
        print("loss by the number of tokens of the story before")
    else:
        rows = by_context(model, torch.cat(documents), n)
        print("loss of the same held-out tokens by what is seen of those before them")
    print(table(rows))

    if not getattr(cfg, "init_from", ""):                       # published weights have no folder
        write_json(f"{cfg.out_dir}/evaluate.json", {"loss_by_context": rows})
        lengths = [int(name.split()[0]) for name in rows]
        losses = [row["nats"] for row in rows.values()]
        picture = line_chart({"loss": (lengths, losses)}, "tokens before", "nats per token",
                             log_x=True)
        write_png(f"{cfg.out_dir}/samples/context.png", picture)
    return rows


def by_place(model, documents: list) -> dict:
    """{"16 to 31 tokens": {"nats": …, "± 1 s.e.": …}, …}: the mean loss by place in a document."""
    losses, places = losses_by_place(model, documents)
    edges = powers_of_two(model.cfg.block_size)
    rows = {}
    for start, end in zip(edges, edges[1:]):
        here = losses[(places >= start) & (places < end)]
        if len(here) > 1:
            rows[f"{start} to {end - 1} tokens"] = {"nats": here.mean().item(),
                                                    "± 1 s.e.": standard_error(here)}
    return rows


def by_context(model, tokens, n: int) -> dict:
    """{"4 tokens": {"nats": …, "more": …, "± 1 s.e.": …}, …}: the paired context curve."""
    contexts = powers_of_two(min(model.cfg.block_size, len(tokens) // 2))
    losses = losses_by_context(model, tokens, contexts, n)
    rows = {}
    for context, loss in zip(contexts, losses):
        more = loss - losses[-1]
        rows[f"{context} tokens"] = {"nats": loss.mean().item(), "more": more.mean().item(),
                                     "± 1 s.e.": standard_error(more)}
    return rows
