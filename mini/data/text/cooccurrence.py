"""Vectors of tokens by counting which tokens stand near each other."""
import torch
import torch.nn.functional as F


@torch.no_grad()
def cooccurrence_vectors(rows, is_counted, C: int, window: int = 5):
    """Vectors (V, C) of V tokens: tokens that stand near the same tokens have similar vectors.

    With few texts, a rare word is seen too seldom for gradient descent to find out what it means.
    Counting finds out more. How much more often do two tokens stand near each other than by chance?
    That is their positive pointwise mutual information,

        PPMI(a, b) = max(0, log p(a, b) / (p(a) p(b)))

    A table of V × V such numbers says in which company each token stands. Its singular value
    decomposition U S Vᵀ, of which the C largest values are kept, makes it short: row a of U √S is
    the vector of token a. (Levy & Goldberg 2014, "Neural word embedding as implicit matrix
    factorization". As Levy, Goldberg & Dagan 2015 advise, two tokens at distance d count as 1/d,
    and p(b) to the power 0.75 keeps rare tokens from looking too special.)

    rows: texts as token numbers (N, T); is_counted (V,): False for tokens that are no words, like
    [PAD]. The vectors are scaled to a standard deviation of 0.1, large enough not to be overwritten
    at once where training begins with them. Tokens that do not occur in the rows get random vectors
    of the same size.
    """
    V = len(is_counted)
    device = rows.device
    rows = rows.cpu()       # CUDA adds up in another order each time, and each run began elsewhere
    counted = is_counted.cpu()[rows]                                    # (N, T)

    # all pairs of neighbours, each as one number: the pair (a, b) is a · V + b
    pairs = []
    weights = []
    for d in range(1, window + 1):
        both = counted[:, :-d] & counted[:, d:]
        left = rows[:, :-d][both]
        right = rows[:, d:][both]
        pairs += [left * V + right, right * V + left]                   # near is near both ways
        weights.append(torch.full((2 * len(left),), 1 / d))

    # how often does each pair occur, and how often each token?
    pairs, place = torch.unique(torch.cat(pairs), return_inverse=True)
    n_ab = torch.bincount(place, torch.cat(weights))                    # (number of pairs,)
    a = pairs // V
    b = pairs % V
    n_a = torch.bincount(a, n_ab, minlength=V)                          # (V,)
    p_b = n_a**0.75 / (n_a**0.75).sum()
    ppmi = (n_ab / (n_a[a] * p_b[b])).log().clamp(min=0)        # p(a, b) / p(a) is n_ab / n_a

    places = torch.stack([a, b])
    table = torch.sparse_coo_tensor(places, ppmi.float(), (V, V), check_invariants=True)
    U, S, _ = torch.svd_lowrank(table, q=min(C, V), niter=4)
    vectors = F.pad(U * S.sqrt(), (0, C - U.size(1)))                   # (V, C)
    occurs = n_a > 0
    vectors = vectors - vectors[occurs].mean(dim=0)                     # what all have in common
    vectors = 0.1 * vectors / vectors[occurs].std().clamp(min=1e-12)
    random = 0.1 * torch.randn(V, C)
    return torch.where(occurs[:, None], vectors, random).to(device)
