"""The tokenizer that `check` and `preview` take is the one that trains; texts begin and end once."""

from __future__ import annotations

import itertools
import json
import shutil

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from rankray.config.sections import DataSection
from rankray.data.chat import Example, Given
from rankray.data.encode import Tokens, encode, light_tokenizer
from rankray.errors import DataError

TEXT = "Once upon a time\nTom had 12 apples, and 3 were  green."


@pytest.mark.parametrize(
    "changes", [{}, {"add_bos_token": False}, {"add_eos_token": True}, {"add_prefix_space": False}]
)
@pytest.mark.parametrize(
    "name",
    [
        "TokenizersBackend", "PreTrainedTokenizerFast", "LlamaTokenizer", "LlamaTokenizerFast", "GPT2TokenizerFast",
        "Qwen2Tokenizer", "GemmaTokenizerFast", "NoSuchTokenizer",
    ],
)  # fmt: skip
def test_a_tokenizer_is_of_the_class_that_the_model_names(assets, tmp_path, name, changes):
    """Some classes replace the rules of tokenizer.json, and training has always gone by them."""
    model = tmp_path / "model"
    shutil.copytree(assets / "models" / "stories260K", model)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": name, **changes}))
    light, training = light_tokenizer(model), AutoTokenizer.from_pretrained(model)
    assert light(TEXT)["input_ids"] == training(TEXT)["input_ids"]
    assert light.eos_token_id == training.eos_token_id


def test_a_byte_level_tokenizer_that_is_called_llama_s_is_read_as_it_is(model_dir, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(model_dir, model)
    rules = json.loads((model / "tokenizer.json").read_text())
    rules["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (model / "tokenizer.json").write_text(json.dumps(rules))
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "LlamaTokenizerFast"}))
    assert light_tokenizer(model)(TEXT)["input_ids"] == AutoTokenizer.from_pretrained(model)(TEXT)["input_ids"]


@pytest.fixture
def with_added(model_dir):
    """Return a function that makes a tokenizer which adds BOS, EOS or both tokens to a text."""

    def make(single):
        tokenizer = AutoTokenizer.from_pretrained(model_dir)
        tokenizer.add_special_tokens({"bos_token": "<bos>"})
        ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<bos>", "<eos>")]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=ids)
        return tokenizer

    return make


SECTION = DataSection(train="t.jsonl", eval="e.jsonl")


@pytest.mark.parametrize("single", ["$A", "<bos> $A", "$A <eos>", "<bos> $A <eos>"])
@pytest.mark.parametrize("begin", ["", "<bos>"], ids=["without", "with its own"])
@pytest.mark.parametrize(
    ("prompt", "completion", "trained"),
    [
        ("Q\n", "A", "A<eos>"), ("Q\n", "A<eos>", "A<eos>"), ("Q\n", "", "<eos>"), ("Q\n", "<eos>", "<eos>"),
        ("", "A", "A<eos>"), ("Q\n", "A<eos><eos>", "A<eos><eos>"), ("Q\n", "A<eos>\n", "A<eos>\n<eos>"),
    ],
)  # fmt: skip
def test_a_text_has_one_bos_token_and_the_eos_token_that_ends_it(
    with_added, single, begin, prompt, completion, trained
):
    tokenizer = with_added(single)
    [tokens] = encode([Example(begin + prompt, completion)], tokenizer, SECTION)
    opens = "<bos>" if begin or "<bos>" in single else ""
    assert tokenizer.decode(tokens.input_ids) == f"{opens}{prompt}{trained}"
    assert tokenizer.decode([label for label in tokens.labels if label >= 0]) == trained
    assert tokenizer.decode(tokens.input_ids[: tokens.start]) == f"{opens}{prompt}"


@pytest.mark.parametrize("single", ["$A", "<bos> $A", "<bos> $A <eos>"])
@pytest.mark.parametrize("begin", ["", "<bos>"], ids=["without", "with its own"])
@pytest.mark.parametrize("entries", [[{"start": 1, "end": 2, "weight": 0.0}], [1.0, 0.0, 1.0]])
def test_weights_are_of_the_same_characters_beside_an_own_bos_token(with_added, single, begin, entries):
    tokenizer = with_added(single)
    example = Example(f"{begin}Q\n", "ABC").weighted(Given(tokens=entries))
    [tokens] = encode([example], tokenizer, SECTION)
    assert tokenizer.decode([label for label in tokens.labels if label >= 0]) == "AC<eos>"


def test_an_own_bos_token_of_a_text_that_is_trained_on_is_not(with_added):
    """As of data sets that were written with a template of Llama 2."""
    tokenizer = with_added("<bos> $A")
    [tokens] = encode([Example("", "<bos>[INST] Q [/INST] A <eos>")], tokenizer, SECTION)
    assert tokenizer.decode([label for label in tokens.labels if label >= 0]) == "[INST] Q [/INST] A <eos>"


def test_labels_are_read_back_as_they_were_written():
    ids = [5, 6, 7, 8]
    for start, *kept in itertools.product(range(5), *[(False, True)] * 4):
        labels = [token if each else -100 for token, each in zip(ids, kept, strict=True)]
        tokens = Tokens.from_labels(ids, start, labels)
        assert (tokens.labels, tokens.start) == (labels, start)
        assert tokens.supervised_tokens == sum(kept[1:])
        assert tokens.supervised == any(kept[1:])


@pytest.mark.parametrize("limit", range(8))
def test_cutting_keeps_the_labels_of_what_is_left(limit):
    ids = [1, 2, 3, 4, 5, 6]
    for tokens in (Tokens(ids, 4), Tokens(ids, 4, ((1, 3), (4, 6))), Tokens(ids, 4, None, (-1.0, 0, 2, 0, 1, 1))):
        cut = tokens.cut(limit)
        assert (cut.input_ids, cut.labels, cut.start) == (ids[:limit], tokens.labels[:limit], min(4, limit))
        assert cut.supervised_tokens == tokens.cut(6).cut(limit).supervised_tokens


def test_texts_and_conversations_of_one_split_stay_in_their_order(with_added):
    tokenizer = with_added("<bos> $A")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    turns = [{"role": "user", "content": "U"}], [{"role": "assistant", "content": "C"}]
    examples = [Example("P", "1"), Example(*turns), Example("P", "2"), Example(*turns), Example("P", "3")]
    found = [tokenizer.decode(each.input_ids) for each in encode(examples, tokenizer, SECTION)]
    assert found == ["<bos>P1<eos>", "UC", "<bos>P2<eos>", "UC", "<bos>P3<eos>"]


def test_an_error_names_the_place_of_its_row(with_added):
    tokenizer = with_added("$A")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ raise_exception('no') if m.content == 'bad' else m.content }}{% endfor %}"
    )
    examples = [Example("P", "1"), *(Example([], [{"role": "assistant", "content": text}]) for text in ("good", "bad"))]
    for places, place in (([], "row 3"), (["a:1", "b:1", "b:2"], "b:2")):
        with pytest.raises(DataError, match=f"^data.messages: {place}: the model's chat template refuses"):
            encode(examples, tokenizer, SECTION, places)
