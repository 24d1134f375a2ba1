"""The fused pass in hard cases: extreme numbers, compilation, determinism, and heads sharded over several ranks."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from fixtures.leaving import LEAVE

from rankray.loss import head_stats, reference, weighted_nll, weighted_nll_with_stats

BIG = 262_144


def grads(loss, leaves):
    return torch.autograd.grad(loss, leaves)


@pytest.mark.parametrize("spread", [0.0, 1.0, 12.0, 60.0], ids=["ties", "usual", "sharp", "one-hot"])
def test_a_vocabulary_of_a_quarter_of_a_million(objective, spread):
    generator = torch.Generator().manual_seed(2)
    hidden_NH = torch.randn(3, 4, generator=generator).requires_grad_()
    head_VH = (torch.randn(BIG, 4, generator=generator) * spread).requires_grad_()
    with torch.no_grad():
        label_N = (hidden_NH @ head_VH.t()).argmax(-1)
    label_N[0] = 17  # an unlikely token: its probability underflows where the spread is large
    loss, stats = weighted_nll_with_stats(hidden_NH, head_VH, label_N, max_scale=50.0, **without_cap(objective))
    truth = reference.weighted_nll(hidden_NH, head_VH, label_N, max_scale=50.0, **without_cap(objective))
    assert loss.isfinite()
    torch.testing.assert_close(loss.double(), truth, rtol=2e-4, atol=1e-6)
    for mine, true in zip(grads(loss, [hidden_NH, head_VH]), grads(truth, [hidden_NH, head_VH]), strict=True):
        assert (mine - true).norm() <= 1e-3 * true.norm() + 1e-6
    if objective["objective"] == "rri":
        assert stats.scale_quantile(1.0) <= 50.0 * 1.011


def without_cap(objective):
    return {key: value for key, value in objective.items() if key != "max_scale"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_probability_that_underflows_keeps_its_gradient(objective, dtype):
    hidden_NH = torch.ones(2, 1, dtype=dtype, requires_grad=True)
    head_VH = torch.tensor([[0.0], [-400.0], [1.0]], dtype=dtype, requires_grad=True)
    loss, stats = weighted_nll_with_stats(hidden_NH, head_VH, torch.tensor([1, 2]), **{**objective, "max_scale": 9.0})
    assert stats.nll_sum.item() == pytest.approx(401.31326 + 0.31326, rel=1e-5)
    gradients = grads(loss, [hidden_NH, head_VH])
    assert all(gradient.isfinite().all() for gradient in gradients)
    if objective["objective"] == "sft":
        assert gradients[0][0].abs() > 100


@pytest.mark.parametrize("form", ["bound", "exact"])
def test_the_cap_holds_where_the_scale_would_overflow(form):
    stats = [
        weighted_nll_with_stats(
            torch.ones(1, 1),
            torch.tensor([[0.0], [-3000.0], [1.0]]),
            torch.tensor([1]),
            form=form,
            base="one",
            temperature=0.01,
            max_scale=cap,
        )[1]
        for cap in (None, 4.0)
    ]
    assert stats[0].mean_weight > 1e6
    assert stats[1].mean_weight == pytest.approx(4.0)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("form", ["bound", "exact"])
def test_compiled_code_gives_the_same_value_and_gradients(backend, form, batch_of):
    batch = batch_of(dtype=torch.float32)

    def loss(hidden_NH, head_VH):
        return 2 * weighted_nll(torch.tanh(hidden_NH), head_VH, batch.label_N, form=form)

    leaves = [batch.hidden_NH, batch.head_VH]
    plain = loss(*leaves)
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(loss, backend=backend)(*leaves)
    torch.testing.assert_close(compiled, plain)
    for mine, expected in zip(grads(compiled, leaves), grads(plain, leaves), strict=True):
        torch.testing.assert_close(mine, expected)


def test_deterministic_on_request(objective, batch_of):
    batch = batch_of(dtype=torch.float32, tokens=300)
    options = {"bias_V": batch.bias_V, "sequence_N": batch.sequence_N, **objective}
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(2):
            loss = weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N, **options)
            runs.append([loss.detach(), *grads(loss, batch.leaves())])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def softmax(logits):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def test_eaft_and_talr_are_their_papers_formulas(batch_of):
    batch = batch_of()
    keep = (batch.label_N != -100).numpy()
    hidden, head = batch.hidden_NH.detach().numpy()[keep], batch.head_VH.detach().numpy()
    label, sequence = batch.label_N.numpy()[keep], batch.sequence_N.numpy()[keep]
    prob = softmax(hidden @ head.T)
    nll = -np.log(prob[np.arange(len(label)), label])

    top = -np.sort(-prob, axis=-1)[:, :20]
    top /= top.sum(-1, keepdims=True)
    eaft = np.mean((-(top * np.log(top)).sum(-1) / 3) ** 1.5 * nll)
    ours = weighted_nll(batch.hidden_NH, batch.head_VH, batch.label_N, objective="eaft", alpha=1.5)
    assert ours.item() == pytest.approx(eaft, rel=1e-11)

    temperature = np.median([nll[sequence == each].mean() for each in np.unique(sequence)])
    talr = np.mean(np.maximum(np.exp(-nll) ** (1 / temperature), 0.05) * nll)
    ours = weighted_nll(
        batch.hidden_NH,
        batch.head_VH,
        batch.label_N,
        objective="talr",
        min_weight=0.05,
        sequence_N=batch.sequence_N,
    )
    assert ours.item() == pytest.approx(talr, rel=1e-11)


def test_tied_embeddings_get_both_gradients(objective):
    generator = torch.Generator().manual_seed(5)
    table_VH = torch.randn(30, 6, generator=generator, dtype=torch.float64).requires_grad_()
    token_N, label_N = torch.randint(0, 30, (2, 25), generator=generator)
    pair = [
        loss(torch.tanh(table_VH[token_N]), table_VH, label_N, **objective)
        for loss in (weighted_nll, reference.weighted_nll)
    ]
    mine, true = (grads(loss, [table_VH])[0] for loss in pair)
    torch.testing.assert_close(mine, true, rtol=1e-9, atol=1e-12)
    once = grads(weighted_nll(torch.tanh(table_VH[token_N].detach()), table_VH, label_N, **objective), [table_VH])[0]
    assert not torch.allclose(mine, once)


SHARDED = """
import sys, torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from rankray.loss import weighted_nll

rank = int(sys.argv[1])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=sys.argv[2], rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
torch.manual_seed(0)
hidden_NH, head_VH, bias_V = torch.randn(20, 6), torch.randn(31, 6), torch.randn(31)
label_N = torch.randint(0, 31, (20,))
mine = slice(0, 7) if rank == 0 else slice(7, None)

whole = [tensor.clone().requires_grad_() for tensor in (hidden_NH, head_VH, bias_V)]
expected = weighted_nll(whole[0], whole[1], label_N, bias_V=whole[2])
expected.backward()

head, bias = (
    torch.nn.Parameter(distribute_tensor(tensor, mesh, [Shard(0)])) for tensor in (head_VH, bias_V)
)
hidden = hidden_NH[mine].clone().requires_grad_()
loss = 2 * weighted_nll(hidden, head, label_N[mine], bias_V=bias, num_items=20)  # ranks are averaged
loss.backward()
total = loss.detach() / 2
dist.all_reduce(total)
torch.testing.assert_close(total, expected.detach())
assert isinstance(head.grad, DTensor) and head.grad.to_local().shape[0] < 31
torch.testing.assert_close(head.grad.full_tensor(), whole[1].grad)
torch.testing.assert_close(bias.grad.full_tensor(), whole[2].grad)
torch.testing.assert_close(hidden.grad, 2 * whole[0].grad[mine])

layer = torch.nn.Linear(6, 31)
with torch.no_grad():
    layer.weight.copy_(head_VH), layer.bias.copy_(bias_V)
fully_shard(layer, mesh=mesh)  # FSDP2's own, its forward never called
loss = 2 * weighted_nll(hidden_NH[mine], layer.weight, label_N[mine], bias_V=layer.bias, num_items=20)
loss.backward()
torch.testing.assert_close(layer.weight.grad.full_tensor(), whole[1].grad)
torch.testing.assert_close(layer.bias.grad.full_tensor(), whole[2].grad)
print("agreed")
del mesh, head, bias, hidden, layer, loss
"""


def test_a_head_sharded_over_two_ranks(tmp_path):
    meeting = f"file://{tmp_path}/meeting"
    ranks = [
        subprocess.Popen([sys.executable, "-c", SHARDED + LEAVE, str(rank), meeting], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=600)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert said == ["agreed\n", "agreed\n"]


@pytest.mark.parametrize("objective", [{"objective": "rri", "form": form} for form in ("bound", "exact")], ids=str)
def test_rounding_of_a_softcap_makes_no_ties(objective):
    """Ranks are those of float64: in float32 the tanh of all products far beyond the cap is the same number."""
    head_VH = torch.linspace(20.0, 60.0, 50)[:, None].requires_grad_()
    label_N = torch.tensor([49, 40, 0])
    loss, stats = weighted_nll_with_stats(torch.ones(3, 1), head_VH, label_N, logit_softcap=5.0, **objective)
    truth = reference.weighted_nll(torch.ones(3, 1), head_VH, label_N, logit_softcap=5.0, **objective)
    torch.testing.assert_close(loss.double(), truth, rtol=1e-5, atol=0.0)
    assert stats.correct_count == 1
    found = head_stats(torch.ones(3, 1), head_VH.detach(), label_N, logit_softcap=5.0)
    assert found.rank_N.tolist() == [1.0, 10.0, 50.0]
