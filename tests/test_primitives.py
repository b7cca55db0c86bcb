"""mini/primitives.py against torch's own layers: outputs and gradients, in float64, on every input."""
import math

import pytest
import torch
import torch.nn.functional as F

from mini import primitives as P


def rand(*shape, seed=0):
    """Normal numbers in float64, the same on every call."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def assert_close(a, b, what=""):
    """max|a − b| ≤ 1e-10 · max(1, max|b|); NaN fails."""
    assert a.shape == b.shape and a.dtype == b.dtype, (what, a.shape, b.shape, a.dtype, b.dtype)
    error, size = (a - b).abs().max().item(), b.abs().max().item()
    assert error <= 1e-10 * max(1.0, size), (what, error, size)


def assert_parity(ours, theirs, *inputs):
    """Both functions of the inputs give the same outputs, and the same gradient of a random sum of them with
    respect to every input (None is passed on)."""
    results = []
    for function in (ours, theirs):
        copies = [None if x is None else x.clone().requires_grad_() for x in inputs]
        outputs = function(*copies)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        total = sum((y * rand(*y.shape, seed=7 + i)).sum() for i, y in enumerate(outputs))
        gradients = torch.autograd.grad(total, [x for x in copies if x is not None])
        results.append([*outputs, *gradients])
    assert len(results[0]) == len(results[1])
    for i, (a, b) in enumerate(zip(*results)):
        assert_close(a.detach(), b.detach(), f"result {i} (outputs, then gradients)")


# ---- activations and softmax

@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 3, 4)])
def test_gelu(shape):
    assert_parity(P.gelu, F.gelu, 3 * rand(*shape))
    assert_parity(P.gelu_tanh, lambda x: F.gelu(x, approximate="tanh"), 3 * rand(*shape))


def test_gelu_at_extremes():
    x = torch.linspace(-40, 40, 401, dtype=torch.float64)
    assert_parity(P.gelu, F.gelu, x)
    assert_parity(P.gelu_tanh, lambda x: F.gelu(x, approximate="tanh"), x)
    assert 1e-4 < (P.gelu(x) - P.gelu_tanh(x)).abs().max() < 5e-4       # as the docstring says


@pytest.mark.parametrize("shape", [(1,), (4, 1), (3, 5), (2, 3, 4)])
def test_softmax(shape):
    for scale in (3, 1000):
        assert_parity(P.softmax, lambda x: F.softmax(x, dim=-1), scale * rand(*shape))
        assert_parity(P.log_softmax, lambda x: F.log_softmax(x, dim=-1), scale * rand(*shape))


def test_softmax_of_huge_and_of_missing_entries():
    x = torch.tensor([[1000.0, 999.0, -1000.0], [-1000.0, -1001.0, -1000.0], [0.0, -math.inf, 1.0]]).double()
    assert_parity(P.softmax, lambda x: F.softmax(x, dim=-1), x)
    nothing = torch.full((2, 3), -math.inf, dtype=torch.float64, requires_grad=True)
    p = P.softmax(nothing)
    assert p.eq(0).all() and torch.autograd.grad(p.sum(), nothing)[0].eq(0).all()


# ---- the loss of a classifier, and dropout

@pytest.mark.parametrize("N, V", [(1, 1), (1, 2), (6, 5), (20, 3)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("ignored", [0, 1, 4])
def test_cross_entropy(N, V, smoothing, ignored):
    targets = torch.arange(N) * 7 % V
    targets[1:1 + ignored] = -100                                       # the first one always counts
    assert_parity(lambda x: P.cross_entropy(x, targets, label_smoothing=smoothing),
                  lambda x: F.cross_entropy(x, targets, label_smoothing=smoothing), 3 * rand(N, V))


def test_cross_entropy_defaults_and_another_ignore_index():
    targets = torch.tensor([2, 0, 1, 0])
    assert_parity(lambda x: P.cross_entropy(x, targets), lambda x: F.cross_entropy(x, targets), rand(4, 3))
    assert_parity(lambda x: P.cross_entropy(x, targets, ignore_index=0, label_smoothing=0.1),
                  lambda x: F.cross_entropy(x, targets, ignore_index=0, label_smoothing=0.1), rand(4, 3))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_huge_logits(smoothing):
    x = torch.tensor([[1000.0, -1000.0, 0.0], [1000.0, 1001.0, 999.0]], dtype=torch.float64)
    targets = torch.tensor([1, 2])
    assert_parity(lambda x: P.cross_entropy(x, targets, smoothing),
                  lambda x: F.cross_entropy(x, targets, label_smoothing=smoothing), x)
    single = torch.tensor([[20000.0, 20001.0]])                         # float32 keeps 2 decimals of 20001
    assert abs(P.cross_entropy(single, targets[:1]).item() - math.log1p(math.exp(-1))) < 1e-6


def test_cross_entropy_of_nothing_is_nan_and_bad_input_is_refused():
    assert P.cross_entropy(rand(2, 3), torch.tensor([-100, -100])).isnan()
    for shape, smoothing in [((2, 3), 0.0), ((3,), 0.0), ((1, 3), 1.1), ((1, 3), -0.1)]:
        with pytest.raises(ValueError):
            P.cross_entropy(rand(*shape), torch.tensor([0]), smoothing)
    for target in (3, -1):
        with pytest.raises(RuntimeError):
            P.cross_entropy(rand(1, 3), torch.tensor([target]))


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(1,), (8, 9), (2, 3, 4)])
def test_dropout(p, shape):
    def theirs(x):
        torch.manual_seed(3)
        return F.dropout(x, p)

    mask = theirs(torch.ones(shape, dtype=torch.float64)) != 0          # drawn by torch, given to us
    assert_parity(lambda x: P.dropout(x, p, mask), theirs, rand(*shape))


def test_dropout_draws_its_own_mask():
    x = torch.full((200, 500), 2.0, dtype=torch.float64)
    for p in (0.1, 0.5, 0.8):
        y = P.dropout(x, p, generator=torch.Generator().manual_seed(1))
        assert_close(y[y != 0], torch.full_like(y[y != 0], 2 / (1 - p)))        # kept entries are scaled
        assert abs((y == 0).double().mean() - p) < 0.006                        # 4 standard deviations
        assert abs(y.mean() - 2) < 0.06                                         # the mean is preserved
        assert y.equal(P.dropout(x, p, generator=torch.Generator().manual_seed(1)))
        assert not y.equal(P.dropout(x, p, generator=torch.Generator().manual_seed(2)))
    assert P.dropout(x, 0.0).equal(x) and P.dropout(x, 1.0).eq(0).all()
    assert set(P.dropout(x).unique().tolist()) == {0.0, 4.0}                    # by default, p = 0.5
    for p in (-0.1, 1.1):
        with pytest.raises(ValueError):
            P.dropout(x, p)


# ---- convolutions

@pytest.mark.parametrize("B, C, O, H, W, KH, KW", [
    (1, 1, 1, 1, 1, 1, 1), (2, 3, 4, 8, 7, 3, 3), (1, 2, 5, 9, 6, 4, 2), (3, 4, 2, 5, 5, 5, 5),
    (2, 1, 3, 6, 11, 1, 3)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_conv2d(B, C, O, H, W, KH, KW, stride, padding):
    for bias in (None, rand(O, seed=2)):
        assert_parity(lambda x, w, b: P.conv2d(x, w, b, stride, padding),
                      lambda x, w, b: F.conv2d(x, w, b, stride, padding),
                      rand(B, C, H, W), rand(O, C, KH, KW), bias)


@pytest.mark.parametrize("B, C, O, H, W, KH, KW", [
    (1, 1, 1, 1, 1, 3, 3), (2, 3, 4, 4, 3, 4, 4), (1, 5, 2, 3, 6, 3, 5), (3, 2, 2, 5, 2, 3, 3),
    (1, 2, 3, 4, 4, 1, 1)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1])
def test_conv_transpose2d(B, C, O, H, W, KH, KW, stride, padding):
    for extra in range(stride):
        if min((H - 1) * stride - 2 * padding + KH, (W - 1) * stride - 2 * padding + KW) + extra < 1:
            with pytest.raises(ValueError):
                P.conv_transpose2d(rand(B, C, H, W), rand(C, O, KH, KW), None, stride, padding, extra)
            continue
        for bias in (None, rand(O, seed=2)):
            assert_parity(lambda x, w, b: P.conv_transpose2d(x, w, b, stride, padding, extra),
                          lambda x, w, b: F.conv_transpose2d(x, w, b, stride, padding, extra),
                          rand(B, C, H, W), rand(C, O, KH, KW), bias)


def test_convolution_defaults_and_the_transpose():
    x, w = rand(1, 3, 6, 5), rand(4, 3, 3, 2)
    assert_parity(P.conv2d, F.conv2d, x, w)
    assert_parity(P.conv_transpose2d, F.conv_transpose2d, rand(1, 4, 6, 5), w)
    y = rand(1, 4, 3, 3)                                                # ⟨conv(x), y⟩ = ⟨x, transpose(y)⟩
    there, back = P.conv2d(x, w, None, 2, 1), P.conv_transpose2d(y, w, None, 2, 1, 1)
    assert_close((there * y).sum(), (x * back[:, :, :, :5]).sum())


def test_convolution_refuses_what_does_not_fit():
    for x, w, stride, padding in [((1, 2, 5, 5), (3, 1, 3, 3), 1, 0), ((1, 2, 5, 5), (3, 2, 6, 3), 1, 0),
                                  ((1, 2, 5, 5), (3, 2, 3, 8), 1, 1), ((1, 2, 5, 5), (3, 2, 3, 3), 0, 0),
                                  ((1, 2, 5, 5), (3, 2, 3, 3), 1, -1)]:
        with pytest.raises(ValueError):
            P.conv2d(rand(*x), rand(*w), None, stride, padding)
    for C, stride, padding, extra in [(1, 1, 0, 0), (2, 2, 0, 2), (2, 1, -1, 0), (2, 2, 0, -1), (2, 2, 6, 1)]:
        with pytest.raises(ValueError):
            P.conv_transpose2d(rand(1, 2, 5, 5), rand(C, 3, 3, 3), None, stride, padding, extra)


# ---- normalisation

def affine(C):
    """(weight, bias) as in a trained layer, with one of the two, and without any."""
    w, b = rand(C, seed=1), rand(C, seed=2)
    return [(w, b), (w, None), (None, b), (None, None)]


@pytest.mark.parametrize("shape", [(1, 2), (4, 6), (2, 3, 5), (2, 3, 2, 4)])
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_layer_norm(shape, eps):
    for w, b in affine(shape[-1]):
        assert_parity(lambda x, w, b: P.layer_norm(x, w, b, eps),
                      lambda x, w, b: F.layer_norm(x, shape[-1:], w, b, eps), 5 + 3 * rand(*shape), w, b)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3), (2, 3, 5), (4, 2, 3, 5), (1, 3, 2, 2)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum, eps", [(0.1, 1e-5), (0.7, 0.1)])
def test_batch_norm(shape, training, momentum, eps):
    C = shape[1]
    for w, b in affine(C):
        ours, theirs = [[rand(C, seed=3), rand(C, seed=4) ** 2 + 0.5] for _ in range(2)]

        def our_norm(x, w, b):
            y, ours[0], ours[1] = P.batch_norm(x, *ours, w, b, training, momentum, eps)
            return y

        for step in range(3):                                           # the running statistics go along
            assert_parity(our_norm, lambda x, w, b: F.batch_norm(x, *theirs, w, b, training, momentum, eps),
                          5 + 3 * rand(*shape, seed=step), w, b)
            assert_close(ours[0], theirs[0], "running mean")
            assert_close(ours[1], theirs[1], "running variance")
            assert not ours[0].requires_grad and not ours[1].requires_grad


@pytest.mark.parametrize("shape", [(4, 3), (1, 3, 2, 2)])
def test_batch_norm_defaults_are_for_test_time(shape):
    mean, var = rand(3, seed=3), rand(3, seed=4) ** 2
    before = mean.clone(), var.clone()
    assert_parity(lambda x: P.batch_norm(x, mean, var)[0], lambda x: F.batch_norm(x, mean, var), rand(*shape))
    _, new_mean, new_var = P.batch_norm(rand(*shape), mean, var)
    assert new_mean.equal(before[0]) and new_var.equal(before[1])
    _, new_mean, new_var = P.batch_norm(rand(*shape), mean, var, training=True)
    assert mean.equal(before[0]) and var.equal(before[1])               # the arguments are not written to
    F.batch_norm(rand(*shape), *before, training=True)                  # but torch's are
    assert_close(new_mean, before[0])
    assert_close(new_var, before[1])
    alone = P.batch_norm(rand(*shape)[:1], mean, var)[0]
    assert_close(alone, P.batch_norm(rand(*shape), mean, var)[0][:1])


@pytest.mark.parametrize("shape, groups", [((2, 6), 3), ((1, 4, 3), 2), ((2, 6, 3, 4), 1), ((3, 6, 2, 2), 2),
                                           ((2, 6, 3, 4), 6), ((1, 1, 2, 3), 1)])
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_group_norm(shape, groups, eps):
    def theirs(x, w, b):
        if w is None:                                                   # torch: no gradient of a bias alone
            w = torch.ones(shape[1], dtype=torch.float64)
        return F.group_norm(x, groups, w, b, eps)

    for w, b in affine(shape[1]):
        assert_parity(lambda x, w, b: P.group_norm(x, groups, w, b, eps), theirs, 5 + 3 * rand(*shape), w, b)


@pytest.mark.parametrize("shape", [(1, 1, 2), (2, 3, 5), (1, 3, 4, 2), (3, 2, 5, 5)])
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_instance_norm(shape, eps):
    for w, b in affine(shape[1]):
        assert_parity(lambda x, w, b: P.instance_norm(x, w, b, eps),
                      lambda x, w, b: F.instance_norm(x, weight=w, bias=b, eps=eps),
                      5 + 3 * rand(*shape), w, b)


def test_norm_defaults_and_constant_and_strided_input():
    x = rand(2, 4, 3, 5)
    for x in (x, x.transpose(2, 3), torch.full_like(x, 3.0)):
        assert_parity(P.layer_norm, lambda x: F.layer_norm(x, x.shape[-1:]), x)
        assert_parity(lambda x: P.group_norm(x, 2), lambda x: F.group_norm(x, 2), x)
        assert_parity(P.instance_norm, F.instance_norm, x)


def test_norms_refuse_what_has_no_statistics():
    for shape in [(1, 3), (1, 3, 1, 1)]:
        with pytest.raises(ValueError):
            P.batch_norm(rand(*shape), rand(3), rand(3) ** 2, training=True)
    for shape in [(2, 3), (2, 3, 1, 1)]:
        with pytest.raises(ValueError):
            P.instance_norm(rand(*shape))
    for groups in (0, 2, 4):
        with pytest.raises(ValueError):
            P.group_norm(rand(2, 3, 4), groups)


# ---- attention

@pytest.mark.parametrize("lead, T, S, hs, d", [((), 3, 3, 4, 4), ((2,), 5, 5, 3, 3), ((2, 3), 4, 6, 5, 2),
                                               ((1, 1), 1, 1, 1, 1), ((2, 2), 6, 4, 3, 3)])
@pytest.mark.parametrize("kind", ["none", "causal", "boolean", "additive", "infinite"])
def test_attention(lead, T, S, hs, d, kind):
    q, k, v = rand(*lead, T, hs), rand(*lead, S, hs, seed=1), rand(*lead, S, d, seed=2)
    may_look = rand(T, S, seed=3) > 0
    may_look[:, 0] = True                                               # every query has a key
    if kind == "additive":                                              # with a gradient of its own
        assert_parity(P.attention, F.scaled_dot_product_attention, q, k, v, rand(T, S, seed=3))
        return
    infinite = torch.zeros(T, S).double().masked_fill(~may_look, -math.inf)
    mask, causal = {"boolean": may_look, "infinite": infinite}.get(kind), kind == "causal"
    assert_parity(lambda *qkv: P.attention(*qkv, mask, causal),
                  lambda *qkv: F.scaled_dot_product_attention(*qkv, mask, is_causal=causal), q, k, v)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_with_padding(causal):
    q, k, v = [100 * rand(3, 2, 4, 5, seed=i) for i in range(3)]        # no finite number masks such scores
    real = torch.arange(4) < torch.tensor([4, 2, 1])[:, None]           # (B, S): the rest of a row is padding
    mask = real[:, None, None, :]                                       # (B, 1, 1, S): of all heads, queries
    full = mask & torch.ones(4, 4, dtype=torch.bool).tril() if causal else mask.expand(3, 2, 4, 4)
    assert_parity(lambda *qkv: P.attention(*qkv, mask, causal),
                  lambda *qkv: F.scaled_dot_product_attention(*qkv, full), q, k, v)
    changed = torch.where(real[:, None, :, None], v, 1e6)               # what padding says is not heard
    assert_close(P.attention(q, k, changed, mask, causal), P.attention(q, k, v, mask, causal))


def test_attention_of_a_query_without_keys_is_zero_and_has_no_gradient():
    q, k, v = [rand(2, 4, 3, seed=i).requires_grad_() for i in range(3)]
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[1] = False
    for mask in (mask, torch.zeros(4, 4).double().masked_fill(~mask, -math.inf)):
        y = P.attention(q, k, v, mask)
        gradients = torch.autograd.grad(y.sum(), (q, k, v))
        assert y[:, 1].eq(0).all() and gradients[0][:, 1].eq(0).all()
        assert all(g.isfinite().all() for g in gradients)


# ---- recurrence

@pytest.mark.parametrize("B, I, N", [(1, 1, 1), (1, 4, 3), (5, 2, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_lstm_step(B, I, N, bias):
    cell = torch.nn.LSTMCell(I, N, bias=bias, dtype=torch.float64)
    names = [name for name, _ in cell.named_parameters()]               # in the order of our arguments
    assert names == ["weight_ih", "weight_hh", "bias_ih", "bias_hh"][:len(names)]
    inputs = [rand(3, B, I), rand(B, N, seed=1), rand(B, N, seed=2)]
    weights = [rand(*p.shape, seed=3 + i) for i, p in enumerate(cell.parameters())]

    def three_steps(step):
        def run(xs, h, c, *weights):
            for x in xs:
                h, c = step(x, h, c, weights)
            return h, c
        return run

    def theirs(x, h, c, weights):
        return torch.func.functional_call(cell, dict(zip(names, weights)), (x, (h, c)))

    assert_parity(three_steps(lambda x, h, c, weights: P.lstm_step(x, h, c, *weights)), three_steps(theirs),
                  *inputs, *weights)


# ---- the optimiser

@pytest.mark.parametrize("shape", [(), (7,), (3, 4)])
@pytest.mark.parametrize("options", [{}, dict(lr=0.1, weight_decay=0.0), dict(lr=0.03, weight_decay=0.5),
                                     dict(lr=0.01, beta1=0.5, beta2=0.8, eps=1e-2), dict(beta1=0.0)])
def test_adamw_step(shape, options):
    p = rand(*shape)
    theirs = torch.nn.Parameter(p.clone())
    betas = options.get("beta1", 0.9), options.get("beta2", 0.999)
    others = {key: value for key, value in options.items() if not key.startswith("beta")}
    optimizer = torch.optim.AdamW([theirs], betas=betas, **others)
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    for t in range(1, 9):
        grad = rand(*shape, seed=t) * 10.0 ** (t % 3 - 2)
        if t == 5:
            grad = torch.zeros_like(grad)
        theirs.grad = grad.clone()
        optimizer.step()
        before = p.clone(), m.clone(), v.clone(), grad.clone()
        new = P.adamw_step(p, grad, m, v, t, **options)
        assert all(a.equal(b) for a, b in zip((p, m, v, grad), before))             # no argument is changed
        p, m, v = new
        assert_close(p, theirs.detach(), f"p after step {t}")
        assert_close(m, optimizer.state[theirs]["exp_avg"], "m")
        assert_close(v, optimizer.state[theirs]["exp_avg_sq"], "v")


def test_adamw_counts_from_one():
    x = rand(2)
    with pytest.raises(ValueError):
        P.adamw_step(x, x, x, x, 0)
