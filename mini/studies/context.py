"""What does context buy? The held-out loss of a language model by how many tokens it has seen."""
import torch
import torch.nn.functional as F

from mini.data.text.corpus import encode, read_text, split_text
from mini.utils.metrics import by_position, print_tables


@torch.no_grad()
def loss_by_position(model, tokens, tokens_at_once: int = 4096):
    """The loss in nats summed at each position of the context, and how many tokens were predicted
    there: two tensors (T,). Their sums give the mean that `estimate_loss` returns.

    tokens[1:] are predicted in consecutive windows of T = block_size, each begun with no context.
    """
    was_training = model.training
    model.eval()
    T = model.cfg.block_size
    missing = -(len(tokens) - 1) % T                            # fills up the last window
    x = F.pad(tokens[:-1], (0, missing)).view(-1, T)            # (windows, T)
    y = F.pad(tokens[1:], (0, missing), value=-100).view(-1, T)
    windows_at_once = max(1, tokens_at_once // T)
    total = torch.zeros(T, dtype=torch.float64)
    for x_i, y_i in zip(x.split(windows_at_once), y.split(windows_at_once)):
        logits = model(x_i).float()
        loss = F.cross_entropy(logits.flatten(0, 1), y_i.flatten(), reduction="none")
        total += loss.view(-1, T).sum(0).cpu()                  # (B·T,) -> (B, T) -> (T,)
    model.train(was_training)
    count = (y >= 0).sum(0).cpu()
    return total, count


def loss_by_context(model, tokenizer) -> dict:
    """Print the mean held-out loss after so many tokens of context, and write it to evaluate.json.

    The data are those of the model's config.
    """
    cfg = model.cfg
    _, val_text = split_text(read_text(cfg.data))
    val_tokens = encode(tokenizer, val_text, model.device)
    total, count = loss_by_position(model, val_tokens)
    return print_tables(cfg, loss_after_so_many_tokens=by_position(total, count))
