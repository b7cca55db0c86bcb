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


def context_curve(model, tokenizer, n: int = 2000) -> dict:
    """Print the loss of n held-out tokens by how many tokens before them the model sees, write it
    to evaluate.json, and draw it in samples/context.png.

    The tokens are those of the test text, or of the validation text if there is no other. "more"
    says how much more it is than with the longest context, and how sure that is: the mean of the
    differences, token by token, and its standard error.
    """
    cfg = model.cfg
    corpus = read_corpus(cfg.data)
    documents = encode(tokenizer, corpus.test or corpus.val, model.device)
    tokens = torch.cat(documents)
    contexts = powers_of_two(min(cfg.block_size, len(tokens) // 2))
    losses = losses_by_context(model, tokens, contexts, n)
    rows = {}
    for context, loss in zip(contexts, losses):
        more = loss - losses[-1]
        rows[f"{context} tokens"] = {"nats": loss.mean().item(), "more": more.mean().item(),
                                     "± 1 s.e.": standard_error(more)}
    print(f"loss of {losses.size(1):,} held-out tokens, by what is seen of those before them")
    print(table(rows))

    if not getattr(cfg, "init_from", ""):                       # published weights have no folder
        write_json(f"{cfg.out_dir}/evaluate.json", {"loss_by_context": rows})
        means = losses.mean(dim=1).tolist()
        picture = line_chart({"loss": (contexts, means)}, "tokens of context", "nats per token",
                             log_x=True)
        write_png(f"{cfg.out_dir}/samples/context.png", picture)
    return rows
