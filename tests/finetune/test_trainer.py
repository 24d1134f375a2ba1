import inspect
import json
import math
import shutil

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from transformers import AutoModelForCausalLM, Trainer
from trl import SFTTrainer

from rankray.config import Config
from rankray.data.tokenize import load_split
from rankray.errors import ConfigError
from rankray.finetune.arguments import sft_arguments
from rankray.finetune.trainer import RankrayTrainer
from rankray.loss import reference
from rankray.model.resident import fresh_model, frozen_model, tokenizer_of


def logits_of(tree):
    """Logits and targets of all supervised tokens of the training set, by the model's own forward, in float64."""
    config = Config.model_validate(tree)
    model = AutoModelForCausalLM.from_pretrained(config.model.path).double().eval()
    split = load_split("train", config.data, tokenizer_of(config), config.data.max_length)
    logits, targets, sequences = [], [], []
    for number, example in enumerate(split.tokens):
        ids, labels = torch.tensor(example.input_ids), torch.tensor(example.labels)
        with torch.no_grad():
            found = model(input_ids=ids[None]).logits[0, :-1]
        keep = labels[1:] != -100
        logits.append(found[keep])
        targets.append(labels[1:][keep])
        sequences.append(torch.full((int(keep.sum()),), number))
    return torch.cat(logits), torch.cat(targets), torch.cat(sequences)


WHOLE = {"train__batch_size": 24, "train__max_steps": 1, "evaluate__every_steps": 1}
"""One step on all examples at once: its training metrics are those of the weights before it."""


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_the_temperature_in_the_file_reaches_the_arithmetic(tree, train, temperature):
    loss = {"objective": "rri", "temperature": temperature, "entropy_weight": 0.7, "base": "one"}
    made = tree(**WHOLE, train__learning_rate=1e-12)
    made["loss"] = loss
    metrics = train(made)[0].metrics
    logits, targets, _ = logits_of(made)
    log_prob = torch.log_softmax(logits, -1)
    p = log_prob.exp()
    bits = -(p * log_prob).sum(-1) / math.log(2)
    log_target = log_prob.gather(1, targets[:, None])[:, 0]
    rank = (p >= log_target.exp()[:, None]).sum(-1)
    bound = 2**bits / 4 + 1
    slope = torch.log2(torch.maximum(rank.double(), bound) + 1) ** -2
    weight = 2 ** (-(slope / temperature) * (log_target / math.log(2) + 0.7 * torch.log2(bound)))
    assert metrics["train/loss"] == pytest.approx((-log_target * weight).mean().item(), rel=1e-5)
    assert metrics["train/nll"] == pytest.approx(-log_target.mean().item(), rel=1e-6)
    assert metrics["train/mean_weight"] == pytest.approx(weight.mean().item(), rel=1e-5)
    assert metrics["train/loss"] != pytest.approx(metrics["train/nll"], rel=1e-2)


@pytest.mark.parametrize("objective", ["sft", "dft", "eaft", "talr"])
def test_the_other_objectives_are_those_of_the_reference(tree, train, objective):
    made = tree(**WHOLE, train__learning_rate=1e-12)
    made["loss"] = {"objective": objective}
    metrics = train(made)[0].metrics
    logits, targets, sequences = logits_of(made)
    identity = torch.eye(logits.shape[1], dtype=logits.dtype)
    expected = reference.weighted_nll(logits, identity, targets, objective=objective, sequence_N=sequences)
    assert metrics["train/loss"] == pytest.approx(float(expected), rel=1e-5)


def test_sft_is_the_models_own_cross_entropy(tree, train):
    made = tree(**WHOLE, train__learning_rate=1e-12)
    made["loss"] = {"objective": "sft"}
    metrics = train(made)[0].metrics
    logits, targets, _ = logits_of(made)
    own = torch.nn.functional.cross_entropy(logits, targets).item()
    assert metrics["train/loss"] == pytest.approx(own, rel=1e-6)
    assert metrics["train/loss"] == pytest.approx(metrics["train/nll"], rel=1e-12)


def test_dft_is_trls_own(tree, tmp_path):
    made = tree(**WHOLE)
    made["loss"] = {"objective": "dft"}
    config = Config.model_validate(made)
    tokenizer = tokenizer_of(config)
    dataset = load_split("train", config.data, tokenizer, config.data.max_length).dataset
    found = []
    for trainer_class, own in (
        (RankrayTrainer, {"loss": config.loss, "on_step": lambda trainer, step: ""}),
        (SFTTrainer, {}),
    ):
        arguments = sft_arguments(config, 0, str(tmp_path))
        arguments.loss_type = "dft" if trainer_class is SFTTrainer else arguments.loss_type
        trainer = trainer_class(
            model=fresh_model(config, None),
            args=arguments,
            train_dataset=dataset,
            processing_class=tokenizer,
            **own,
        )
        batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        gradients = {name: weight.grad for name, weight in trainer.model.named_parameters()}
        found.append((loss.item(), gradients))
    (ours, our_gradients), (theirs, their_gradients) = found
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert ours < 0.5  # and not the plain one, which is above 5 at a random model
    for name, gradient in their_gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("objective", ["rri", "talr"])
def test_accumulation_is_one_batch(tree, train, objective):
    changes = {"train__batch_size": 8, "train__max_steps": 5, "evaluate__every_steps": 1}
    found = []
    for name, micro in (("whole", None), ("parts", 2)):
        made = tree(**changes, train__micro_batch_size=micro)
        made["loss"] = {"objective": objective}
        found.append(train(made, directory=name)[1].by_step)
    whole, parts = found
    assert list(whole) == list(parts) == [1, 2, 3, 4, 5]
    for step in whole:
        for name in ("train/loss", "train/nll", "eval/nll"):
            assert parts[step][name] == pytest.approx(whole[step][name], rel=2e-4), (step, name)


def test_unknown_and_impossible_pass_through_fields(tree, train):
    with pytest.raises(ConfigError, match=r"^train.sft.max_grad_nrom: no such field \(did you mean 'max_grad_norm'"):
        train(tree(train__sft={"max_grad_nrom": 1.0}))
    with pytest.raises(ConfigError, match=r"^train.sft: .*optim"):
        train(tree(train__sft={"optim": "nothing_like_it"}))


def test_a_pass_through_field_arrives(tree, train):
    clipped = train(tree(train__sft={"max_grad_norm": 1e-9, "adam_epsilon": 1e-2}), directory="a")[0].metrics
    free = train(tree(), directory="b")[0].metrics
    assert clipped["eval/nll"] > free["eval/nll"]


def test_mixed_precision_passes_through(tree, train):
    exact = train(tree(), directory="a")[0].metrics
    mixed = train(tree(train__sft={"bf16": True}), directory="b")[0].metrics
    assert mixed["train/nll"] != exact["train/nll"]
    assert mixed["train/nll"] == pytest.approx(exact["train/nll"], rel=0.05)


def test_bfloat16_weights(tree, train):
    metrics = train(tree(model__dtype="bfloat16"), directory="a")[0].metrics
    saved = AutoModelForCausalLM.from_pretrained(train(tree(model__dtype="bfloat16"), directory="b")[0].checkpoint)
    assert saved.dtype == torch.bfloat16
    assert math.isfinite(metrics["eval/nll"])


def test_gradient_checkpointing_changes_nothing(tree, train):
    made = tree(train__sft={"gradient_checkpointing": True})
    assert train(made, directory="a")[0].metrics == train(tree(), directory="b")[0].metrics


@pytest.mark.skipif(torch.accelerator.is_available(), reason="float16 trains on an accelerator")
def test_float16_is_refused_on_a_cpu(tree, train):
    with pytest.raises(ConfigError, match=r"^model.dtype: float16 on a CPU.*; allowed there are float32 and bfloat16"):
        train(tree(model__dtype="float16"))


def test_packing_passes_through(tree, train):
    made = tree(**WHOLE, train__learning_rate=1e-12, data__max_length=600)
    made["loss"] = {"objective": "talr"}
    apart = train(made, directory="a")[0].metrics
    made["train"]["sft"] = {"packing": True}
    packed = train(made, directory="b")[0].metrics
    assert packed["train/nll"] == pytest.approx(apart["train/nll"], rel=1e-5)
    assert packed["train/loss"] == pytest.approx(apart["train/loss"], rel=1e-5)


def test_messages_are_trained_on(tree, train, tmp_path):
    file = tmp_path / "chat.jsonl"
    turns = [
        [{"role": "user", "content": f"{a} plus 1 is?"}, {"role": "assistant", "content": f"{a + 1}"}] for a in range(8)
    ]
    file.write_text("".join(json.dumps({"chat": turn}) + "\n" for turn in turns))
    changes = {"data__messages": "chat", "data__train": str(file), "data__eval": str(file)}
    made = tree(**changes, train__max_steps=150, train__learning_rate=1e-2, evaluate__every_steps=150)
    made["evaluate"]["metrics"] = ["accuracy"]
    made["evaluate"]["max_new_tokens"] = 6
    made["loss"] = {"objective": "sft"}
    assert train(made)[0].metrics["eval/accuracy"] == 1.0


def test_a_chat_template_that_is_given_is_trained_with_and_saved(tree, train, tmp_path, model_dir):
    """In a process that has used the model without it before, too."""
    from transformers import AutoTokenizer

    file = tmp_path / "chat.jsonl"
    turns = [{"role": "user", "content": "1 plus 1 is?"}, {"role": "assistant", "content": "2"}]
    file.write_text((json.dumps({"chat": turns}) + "\n") * 4)
    bare = shutil.copytree(model_dir, tmp_path / "bare")
    changes = {"data__messages": "chat", "data__train": str(file), "data__eval": str(file), "model__path": str(bare)}
    own = train(tree(**changes), directory="own")[0].metrics["eval/nll"]
    (bare / "chat_template.jinja").unlink()
    reports = [
        train(tree(**changes, data__chat_template=template), directory=template[:2])[0]
        for template in ("plain", "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")
    ]
    assert len({own, *(report.metrics["eval/nll"] for report in reports)}) == 3
    for report, start in zip(reports, ("{{ bos_token or", "{% for m in"), strict=True):
        assert str(AutoTokenizer.from_pretrained(report.checkpoint).chat_template).startswith(start)


SEAMS = {
    SFTTrainer: {
        "_send_telemetry": ["self"],
        "_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"],
        "_save_optimizer_and_scheduler": ["self", "output_dir"],
        "_save_scaler": ["self", "output_dir"],
        "_save_rng_state": ["self", "output_dir"],
        "_prepare_inputs": ["self", "inputs"],
        "_set_signature_columns_if_needed": ["self"],
        "save_model": ["self", "output_dir", "_internal_call"],
    },
    AcceleratorState: {"_reset_state": ["reset_partial_state"]},
    GradientState: {"_reset_state": []},
}
"""Private names that `finetune/trainer.py` calls or overrides, as in trl 1.16, transformers 5.23, accelerate 1.15."""


@pytest.mark.parametrize(
    ("owner", "name"),
    [(owner, name) for owner, names in SEAMS.items() for name in names],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_private_names_of_the_libraries_are_still_there(owner, name):
    assert hasattr(owner, name), f"{name} is gone: read how {owner.__module__} does this now and change trainer.py"
    assert list(inspect.signature(getattr(owner, name)).parameters) == SEAMS[owner][name]


@pytest.mark.parametrize(
    ("name", "caller"),
    [
        ("_send_telemetry", SFTTrainer.__mro__[1].__init__),
        ("_load_from_checkpoint", Trainer.train),
        ("_signature_columns", SFTTrainer._set_signature_columns_if_needed),
        ("_set_signature_columns_if_needed", Trainer._remove_unused_columns),
        ("_loss_shifts_labels", Trainer._get_num_items_in_batch),
        ("loss_is_scaled_for_ga", Trainer.training_step),
        ("model_accepts_loss_kwargs", Trainer._get_num_items_in_batch),
    ],
)
def test_the_libraries_still_use_what_is_overridden_or_set(name, caller):
    """A name that nobody calls any more would be set or overridden without effect."""
    assert f"self.{name}" in inspect.getsource(caller), f"{caller.__qualname__} no longer uses {name}"


ANCHORED = {"objective": "sft", "kl_weight": 0.5, "kl_direction": "reverse"}


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_divergence_is_that_of_the_base_model(tree, train, direction):
    """One step of no size from a model that has moved away."""
    made = tree(**{**WHOLE, "train__max_steps": 6, "evaluate__every_steps": 6})
    made["loss"] = {"objective": "sft"}
    moved = train(made, directory="moved")[0].checkpoint
    config = Config.model_validate(made | {"loss": {**ANCHORED, "kl_direction": direction}})
    trainer = RankrayTrainer(
        model=fresh_model(config, moved),
        args=sft_arguments(config, 0, moved),
        train_dataset=load_split("train", config.data, tokenizer_of(config), config.data.max_length).dataset,
        processing_class=tokenizer_of(config),
        loss=config.loss,
        on_step=lambda trainer, step: "",
        reference=frozen_model(config),
    )
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    loss = trainer.compute_loss(trainer.model, batch)
    metrics = trainer.train_metrics(reset=False)
    after, _, _ = logits_of(made | {"model": {"path": moved}})
    before, _, _ = logits_of(made)
    expected = reference.divergence_N(after, before, direction).mean().item()
    assert expected > 0.01
    assert metrics["train/kl"] == pytest.approx(expected, rel=1e-4)
    assert metrics["train/loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert loss.item() == pytest.approx(metrics["train/nll"] + 0.5 * expected, rel=1e-5)
    assert not any(weight.requires_grad or weight.grad is not None for weight in trainer._reference.parameters())


def test_at_the_first_step_the_divergence_is_nothing_and_then_it_holds_the_model_back(tree, train):
    made = tree(train__max_steps=10, train__batch_size=24, evaluate__every_steps=1)
    found = {}
    for weight in (0.0, 1e-9, 100.0):
        made["loss"] = {**ANCHORED, "kl_weight": weight}
        found[weight] = train(made, directory=str(weight))[1].by_step
    assert found[100.0][1]["train/kl"] == pytest.approx(0.0, abs=1e-6)
    assert found[100.0][10]["train/kl"] < 0.7 * found[1e-9][10]["train/kl"]
    assert found[100.0][10]["train/nll"] > found[0.0][10]["train/nll"]
    assert "train/kl" not in found[0.0][1]


def test_with_lora_the_reference_is_the_model_without_adapters(tree, train):
    """Adapters that have moved count, and the base below them does not; dropout of the adapters stays out of it."""
    made = tree(train__max_steps=10, train__batch_size=24, evaluate__every_steps=1)
    made["model"]["lora"] = {"rank": 4, "dropout": 0.3}
    made["loss"] = ANCHORED
    steps = train(made)[1].by_step
    assert steps[1]["train/kl"] == pytest.approx(0.0, abs=1e-5)  # a fresh adapter adds nothing, whatever is dropped
    assert steps[10]["train/kl"] > 1e-3
    made["loss"] = {**ANCHORED, "kl_weight": 50.0}
    assert train(made, directory="held")[1].by_step[10]["train/kl"] < steps[10]["train/kl"] / 2


def test_a_resumed_trial_keeps_its_reference(tree, train):
    made = tree(train__max_steps=4)
    made["loss"] = ANCHORED
    whole = train(made, directory="whole")[0]
    halfway = next(report.checkpoint for report in train(made, directory="half")[1].reports if report.step == 2)
    assert train(made, directory="rest", checkpoint=halfway)[0].metrics == whole.metrics


def save_in_bfloat16(model_dir, directory):
    import shutil

    shutil.copytree(model_dir, directory)
    AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16).save_pretrained(directory)
    return str(directory)


def test_a_bfloat16_model_is_trained_on_float32_master_weights(tree, train, model_dir, tmp_path):
    """An update of 1e-6 is lost in bfloat16; `model.dtype: bfloat16` asks for just that."""
    saved = save_in_bfloat16(model_dir, tmp_path / "bfloat16")
    base = AutoModelForCausalLM.from_pretrained(saved).state_dict()
    moved = {}
    for dtype in ("auto", "bfloat16"):
        settings = {"train__learning_rate": 1e-6, "train__max_steps": 1, "evaluate__every_steps": 1}
        made = tree(model__path=saved, model__dtype=dtype, **settings)
        after = AutoModelForCausalLM.from_pretrained(train(made, directory=dtype)[0].checkpoint)
        assert after.dtype == (torch.float32 if dtype == "auto" else torch.bfloat16)
        changed = [(after.state_dict()[name] != weight).float().mean().item() for name, weight in base.items()]
        moved[dtype] = sum(changed) / len(changed)
    assert moved["auto"] > 0.8
    assert moved["bfloat16"] < 0.2


def test_master_weights_compute_in_bfloat16_and_leave_the_kept_model_alone(tree, train, model_dir, tmp_path):
    saved = save_in_bfloat16(model_dir, tmp_path / "bfloat16")
    made = tree(model__path=saved)
    first = train(made, directory="a")[0].metrics
    assert train(tree(model__path=saved, model__lora={"rank": 2}), directory="b")[0].metrics["eval/nll"] > 0
    assert train(made, directory="c")[0].metrics == first
    exact = train(tree(model__path=saved, model__dtype="float32"), directory="d")[0].metrics
    assert exact["train/nll"] != first["train/nll"]
    assert exact["train/nll"] == pytest.approx(first["train/nll"], rel=0.02)


def test_master_weights_resume_to_the_bit(tree, train, model_dir, tmp_path):
    made = tree(model__path=save_in_bfloat16(model_dir, tmp_path / "bfloat16"), train__max_steps=4)
    whole = train(made, directory="whole")[0]
    halfway = next(report.checkpoint for report in train(made, directory="half")[1].reports if report.step == 2)
    assert train(made, directory="rest", checkpoint=halfway)[0].metrics == whole.metrics
