import json

import pytest

from rankray.config import LoadedConfig, config_from, load_config
from rankray.errors import ConfigError, DataError, ModelError
from rankray.finetune.epochs import steps_of, with_steps


def counted(made):
    return with_steps(LoadedConfig(config_from(made), "x.yaml")).config.train.max_steps


@pytest.mark.parametrize(("epochs", "batch", "steps"), [(1, 8, 3), (2, 8, 6), (1, 7, 4), (0.5, 8, 2), (0.01, 24, 1)])
def test_steps_are_those_of_whole_passes(tree, epochs, batch, steps):
    """24 examples; the last batch of a pass may be smaller."""
    assert counted(tree(train__epochs=epochs, train__batch_size=batch)) == steps


def test_transformers_counts_the_same(tree, train, tmp_path):
    """A pass of the trainer's own ends where the next begins: three epochs of 24 examples in batches of 7."""
    from rankray.finetune.arguments import sft_arguments
    from rankray.finetune.trainer import RankrayTrainer
    from rankray.model.resident import fresh_model, split_of, tokenizer_of

    config = config_from(tree(train__batch_size=7))
    tokenizer = tokenizer_of(config)
    arguments = sft_arguments(config, 0, str(tmp_path))
    arguments.max_steps, arguments.num_train_epochs = -1, 3
    trainer = RankrayTrainer(
        model=fresh_model(config), args=arguments, train_dataset=split_of("train", config, tokenizer).dataset,
        processing_class=tokenizer, loss=config.loss, on_step=lambda trainer, step: "",
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == steps_of(3, 24, 7)


def test_lost_examples_are_not_counted(tree, tmp_path):
    rows = [{"question": "1 plus 2 is? " * times, "answer": "3"} for times in (1, 1, 9, 1, 9)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = tree(train__epochs=1, train__batch_size=1, data__max_length=20, data__train=str(tmp_path / "x.jsonl"))
    assert counted(made) == 3


def test_what_would_differ_between_trials_is_refused(tree):
    searched = tree(train__epochs=1) | {"space": {"train.batch_size": {"choice": [2, 4]}}}
    with pytest.raises(ConfigError, match=r"^x.yaml: train.epochs: 1 with train.batch_size in the space"):
        counted(searched)
    with pytest.raises(ConfigError, match="with packing"):
        counted(tree(train__epochs=1, train__sft={"packing": True}))


def test_what_cannot_be_counted_says_where_it_is_written(tree, tmp_path):
    """Counting comes before all other checks, and reads data and tokenizer as they do."""

    def counted_from(**changes):
        file = tmp_path / "f.yaml"
        file.write_text(json.dumps(tree(train__epochs=1, **changes), indent=1))
        return with_steps(load_config(file))

    (tmp_path / "broken.jsonl").write_text('{"question": "a", "answer": "b"}\n{"question"')
    for data, said in (("nowhere.jsonl", "no file"), ("broken.jsonl", r".*broken\.jsonl:2")):
        with pytest.raises(DataError, match=rf"f\.yaml:\d+: data\.train: {said}"):
            counted_from(data__train=str(tmp_path / data))
    with pytest.raises(ModelError, match=r"f\.yaml:\d+: model\.path: no directory"):
        counted_from(model__path=str(tmp_path / "nothing"))


def test_data_of_the_hub_are_counted_when_they_are_loaded(tree):
    assert counted(tree(train__epochs=1, data__train="a/b:train")) == 4


def test_without_epochs_nothing_is_read(tree):
    assert counted(tree(data__train="nowhere.jsonl")) == 4


def test_what_was_left_out_still_counts_as_left_out(tree):
    """Else `check` warns of known settings that nobody asked for."""
    loaded = LoadedConfig(config_from(tree(train__epochs=1, loss__objective="rri")), "x.yaml")
    assert with_steps(loaded).config.study.model_fields_set == loaded.config.study.model_fields_set
    assert with_steps(loaded).config.store == loaded.config.store


def test_more_steps_than_can_be_counted_are_refused_where_the_passes_stand(tree):
    with pytest.raises(
        ConfigError, match=r"train.epochs: 1.7e\+308 passes: train.max_steps: got 2147483648; allowed: at most"
    ):
        counted(tree(train__epochs=1.7e308, train__batch_size=1))
