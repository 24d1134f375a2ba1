import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    ElectraConfig,
    ElectraForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)

from rankray.errors import ModelError
from rankray.loss import weighted_nll
from rankray.model.head import attach_head, check_head, plain_totals, sequence_nlls, sequence_totals, sequences

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}
FAMILIES = {
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, final_logit_softcapping=2.0, initializer_range=0.5)),
    "cohere": lambda: CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.25)),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=4.0, initializer_range=0.5)),
    "llama4": lambda: Llama4ForCausalLM(Llama4TextConfig(**SIZES, num_local_experts=2, intermediate_size_mlp=24)),
    "recurrent_gemma": lambda: RecurrentGemmaForCausalLM(
        RecurrentGemmaConfig(**{**SIZES, "num_hidden_layers": 3}, logits_soft_cap=2.0, w_init_variance_scale=2.0)
    ),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2)),
}


def batch(vocabulary=50):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, vocabulary, (3, 9), generator=generator)
    labels = ids.clone()
    labels[:, :4] = -100
    labels[2] = -100
    return ids, labels


def naive_nll(model, ids, labels):
    logits = type(model).forward(model, input_ids=ids).logits.double()[:, :-1]
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], ignore_index=-100).item()


@pytest.mark.parametrize("family", FAMILIES)
def test_scales_and_softcaps_of_model_families(family):
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    ids, labels = batch()
    check_head(model)
    attach_head(model)
    with torch.no_grad():
        stats = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, head=plain_totals)
        assert stats.nll == pytest.approx(naive_nll(model, ids, labels), rel=1e-5)
        assert int(stats.token_count) == int((labels[:, 1:] != -100).sum())


def test_an_unknown_transformation_is_refused():
    class Odd(GPT2LMHeadModel):
        def forward(self, *args, **kwargs):
            found = super().forward(*args, **kwargs)
            found.logits = found.logits * 1.5
            return found

    torch.manual_seed(0)
    model = Odd(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, initializer_range=0.5)).eval()
    with pytest.raises(ModelError, match=r"^model.path: Odd transforms its logits"):
        check_head(model)


def test_a_head_of_another_width_is_refused():
    """ELECTRA's has a layer of its own before it."""
    torch.manual_seed(0)
    model = ElectraForCausalLM(
        ElectraConfig(vocab_size=50, hidden_size=16, embedding_size=8, num_hidden_layers=1, num_attention_heads=2)
    ).eval()
    with pytest.raises(ModelError, match=r"^model.path: ElectraForCausalLM transforms its logits"):
        check_head(model)


def test_without_a_head_function_the_forward_is_the_models_own(model_dir):
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    ids, labels = batch()
    before = model(input_ids=ids, labels=labels)
    attach_head(model)
    attach_head(model)
    after = model(input_ids=ids, labels=labels)
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.loss, after.loss)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, [[0, 0, 0, 0], [1, 1, 1, 1]]),
        ({"seq_idx": [[0, 0, 1, 1], [2, 2, 2, 2]]}, [[0, 0, 1, 1], [2, 2, 2, 2]]),
        ({"position_ids": [[0, 1, 0, 1], [0, 1, 2, 3]]}, [[0, 0, 1, 1], [2, 2, 2, 2]]),
        ({"position_ids": [[3, 4, 0, 0], [0, 0, 0, 1]]}, [[0, 0, 1, 2], [3, 4, 5, 5]]),
        ({"position_ids": [[[0, 1, 2, 3], [0, 1, 2, 3]]] * 3}, [[0, 0, 0, 0], [1, 1, 1, 1]]),
    ],
    ids=["rows", "numbered", "packed", "cut", "three axes"],
)
def test_which_sequence_a_position_belongs_to(given, wanted):
    """TRL 1.10 packs without `seq_idx`; a talr loss would take its median over rows instead of examples."""
    found = sequences(torch.zeros(2, 4), {name: torch.tensor(value) for name, value in given.items()})
    numbers = torch.unique(found, return_inverse=True)[1]
    assert numbers.tolist() == wanted


def test_a_batch_without_supervised_tokens(model_dir):
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    attach_head(model)
    ids, labels = batch()
    stats = model(input_ids=ids, labels=torch.full_like(labels, -100), head=plain_totals)
    assert float(stats.token_count) == 0


def test_sums_of_each_sequence(model_dir):
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    attach_head(model)
    ids, labels = batch()
    rows = len(ids)
    found = model(input_ids=ids, labels=labels, head=lambda given: sequence_totals(given, rows))
    logits = type(model).forward(model, input_ids=ids).logits.double()[:, :-1]
    expected = torch.zeros(rows, 3).double()
    for row in range(rows):
        for place, label in enumerate(labels[row, 1:].tolist()):
            if label != -100:
                nll = -logits[row, place].log_softmax(-1)[label]
                expected[row] += torch.stack(
                    [nll, torch.ones_like(nll), (logits[row, place].argmax() == label).double()]
                )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert found[2].tolist() == [0.0, 0.0, 0.0], "a row without supervised tokens"
    kept = expected[expected[:, 1] > 0]
    means = model(input_ids=ids, labels=labels, head=sequence_nlls)
    assert means == pytest.approx((kept[:, 0] / kept[:, 1]).tolist(), rel=1e-5)


def lora(model, **options):
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(model, LoraConfig(r=3, lora_alpha=6, **options))
    attach_head(wrapped.get_base_model())
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    return wrapped


def plain_loss(given):
    return weighted_nll(given.hidden_NH, given.head.weight_VH, given.label_N, objective="sft", **given.head.options)


@pytest.mark.parametrize("options", [{"target_modules": ["lm_head"]}, {"target_modules": ["q_proj", "lm_head"]}])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_head_that_lora_wraps(options, dropout):
    torch.manual_seed(0)
    model = lora(FAMILIES["granite"](), lora_dropout=dropout, **options)
    ids, labels = batch()
    results = []
    for fused in (True, False):
        torch.manual_seed(5)
        model.train(mode=dropout == 0.0)  # the masks of a dropout cannot be compared: other positions are drawn
        if fused:
            loss = model(input_ids=ids, labels=labels, head=plain_loss)
        else:
            logits = model(input_ids=ids).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], ignore_index=-100)
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        results.append((loss, dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))))
    (ours, ours_gradients), (own, own_gradients) = results
    torch.testing.assert_close(ours, own)
    assert any("lm_head.lora_A" in name for name in ours_gradients)
    for name, gradient in own_gradients.items():
        torch.testing.assert_close(ours_gradients[name], gradient, msg=lambda text, name=name: f"{name}: {text}")
    with torch.no_grad(), model.disable_adapter():
        assert model(input_ids=ids, labels=labels, head=plain_loss) != ours


def test_a_head_that_is_trained_whole_beside_lora():
    torch.manual_seed(0)
    model = lora(FAMILIES["granite"](), target_modules=["q_proj"], modules_to_save=["lm_head"])
    ids, labels = batch()
    loss = model(input_ids=ids, labels=labels, head=plain_loss)
    loss.backward()
    assert loss.item() == pytest.approx(
        torch.nn.functional.cross_entropy(
            model(input_ids=ids).logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=-100
        ).item(),
        rel=1e-5,
    )
    (saved,) = [weight for name, weight in model.named_parameters() if "modules_to_save" in name]
    assert saved.grad.abs().sum() > 0


def test_a_variant_of_lora_about_the_head_is_refused():
    torch.manual_seed(0)
    model = lora(FAMILIES["granite"](), target_modules=["lm_head"], use_dora=True)
    ids, labels = batch()
    with pytest.raises(ModelError, match=r"^model.lora: the LM head is a Linear"):
        model(input_ids=ids, labels=labels, head=plain_loss)
