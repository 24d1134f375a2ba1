import pytest
import torch
from safetensors.torch import load_file

from rankray.config import Config
from rankray.model import resident
from rankray.model.mapped import copy_to_adapt, copy_to_train, map_weights
from rankray.model.resident import fresh_model


@pytest.fixture(autouse=True)
def forget():
    resident.forget()


def load(path, **more):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, **more)


def place_of(tensor):
    """What the memory of a tensor is mapped from: a path, or an empty text."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            area, *_, rest = line.split(maxsplit=5)
            begin, end = (int(part, 16) for part in area.split("-"))
            if begin <= tensor.data_ptr() < end:
                return rest.strip() if rest.strip().startswith("/") else ""
    return ""


def test_weights_equal_those_of_the_file_and_are_mapped_from_it(model_dir):
    model, plain = load(model_dir), load(model_dir)
    shared = map_weights(model, str(model_dir))
    assert shared == sum(p.numel() * p.element_size() for p in model.parameters())
    for name, weight in model.named_parameters():
        assert torch.equal(weight, plain.get_parameter(name))
        assert place_of(weight).endswith("model.safetensors")


def test_a_sharded_model_is_mapped_too(model_dir, tmp_path):
    model = load(model_dir)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again = load(tmp_path)
    assert map_weights(again, str(tmp_path)) == sum(p.numel() * p.element_size() for p in model.parameters())


def test_what_differs_from_the_file_stays_as_it_is(model_dir):
    other_type = load(model_dir, dtype=torch.bfloat16)
    assert map_weights(other_type, str(model_dir)) == 0
    assert not any(place_of(weight) for weight in other_type.parameters())
    changed = load(model_dir)
    changed.model.norm.weight.data += 1
    kept = changed.model.norm.weight.detach().clone()
    map_weights(changed, str(model_dir))
    assert torch.equal(changed.model.norm.weight, kept)


def test_a_model_without_safetensors_is_left_alone(model_dir, tmp_path):
    assert map_weights(load(model_dir), str(tmp_path)) == 0


def test_writing_to_mapped_weights_does_not_reach_the_file(model_dir):
    model = load(model_dir)
    before = {name: tensor.clone() for name, tensor in load_file(model_dir / "model.safetensors").items()}
    map_weights(model, str(model_dir))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1)
    after = load_file(model_dir / "model.safetensors")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_model_to_train_has_its_own_memory_and_one_to_adapt_shares_it(model_dir):
    model = load(model_dir)
    map_weights(model, str(model_dir))
    trained, adapted = copy_to_train(model), copy_to_adapt(model)
    for name, weight in model.named_parameters():
        assert trained.get_parameter(name).data_ptr() != weight.data_ptr()
        assert adapted.get_parameter(name).data_ptr() == weight.data_ptr()
        assert adapted.get_parameter(name) is not weight
    assert (adapted.lm_head.weight is adapted.model.embed_tokens.weight) == (
        model.lm_head.weight is model.model.embed_tokens.weight
    )


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_training_leaves_the_resident_weights_as_they_are(tree, train, model_dir, lora):
    config = tree(train__max_steps=3, train__learning_rate=0.1, model__lora=lora)
    train(config)
    [kept] = resident._kept["model"].values()
    saved = load(model_dir)
    for name, weight in kept.named_parameters():
        assert torch.equal(weight, saved.get_parameter(name))
        assert weight.grad is None
    first, second = (fresh_model(Config.model_validate(config)) for _ in range(2))
    same = first.lm_head.weight.data_ptr() == second.lm_head.weight.data_ptr()
    assert same == (lora is not None)
