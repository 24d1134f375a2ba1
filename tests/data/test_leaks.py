from rankray.data.chat import Example
from rankray.data.leaks import count_leaks, leaks_line, words

LONG = "If a train leaves the old station at nine and travels for three hours at sixty miles, how far does it go?"


def found(train, held_out):
    leaks = count_leaks([Example(text, "7") for text in train], [Example(text, "8") for text in held_out])
    return [leaks[kind] for kind in ("prompts", "exact", "normalised", "13-gram")]


def test_each_prompt_is_counted_once_under_the_strictest_heading():
    held_out = [LONG, LONG.upper() + "!!", f"Listen: {LONG} Quickly.", "What is 2 + 2?", "Another question altogether"]
    assert found([LONG, "what is 2 + 2"], held_out) == [5, 1, 2, 1]


def test_a_common_template_is_no_leak():
    assert found(["How many apples does Anna have?"], ["How many apples does Emma have?"]) == [1, 0, 0, 0]
    assert found(["Solve it: 1+1"], ["Solve it: 1+2"]) == [1, 0, 0, 0]


def test_a_prompt_in_a_training_completion_is_a_leak():
    train = [Example("Tell me a riddle", LONG)]
    assert count_leaks(train, [Example(LONG, "180")])["13-gram"] == 1


def test_conversations_are_compared_without_their_system_turn():
    def chat(system):
        turns = [{"role": "system", "content": system}, {"role": "user", "content": "2+2?"}]
        return Example(turns, [{"role": "assistant", "content": "4"}])

    assert count_leaks([chat("be kind")], [chat("be brief")])["exact"] == 1


def test_the_warning_says_what_to_do():
    leaks = count_leaks([Example(LONG, "1")], [Example(LONG, "1"), Example("other", "2")])
    assert leaks_line("eval", leaks).startswith("data.eval: of 2 prompts 1 exactly also stand in data.train; a metric")
    assert leaks_line("eval", count_leaks([Example(LONG, "1")], [Example("other", "2")])) == ""


def test_the_words_of_a_template_are_no_leak():
    """In a few rows, or in many of which some have another template: the text around each question is the same."""
    around = "Below is a task of some kind. Write a response that appropriately and fully completes this request: {}"
    for rows in (4, 40):
        train = [around.format(f"what is {i} and {i}") for i in range(rows)] + ["another"] * (rows // 20)
        assert found(train, [around.format("what is 7 and 8")]) == [1, 0, 0, 0]
        assert found([*train, f"Now: {LONG}"], [around.format(LONG)]) == [1, 0, 0, 1]


def test_plain_text_is_compared_by_itself():
    train = [Example("", LONG), Example("", "something else")]
    leaks = count_leaks(train, [Example("", LONG), Example("", "never seen")])
    assert [leaks[kind] for kind in ("prompts", "exact", "normalised", "13-gram")] == [2, 1, 0, 0]


def test_eight_words_of_a_short_prompt_tell_and_seven_do_not():
    eight = "how many red apples does little anna have"
    inside = "Here is one: {} in all of her baskets?"
    assert found([inside.format(eight), "other"], [eight]) == [1, 0, 0, 1]
    assert found([inside.format(eight[4:]), "other"], [eight[4:]]) == [1, 0, 0, 0]


def test_what_stands_in_ten_examples_tells_and_in_more_does_not():
    text = "how many red apples does little anna have"
    others = [f"something else {number}" for number in range(5)]
    assert found([f"{number}: {text}" for number in range(10)] + others, [text]) == [1, 0, 0, 1]
    assert found([f"{number}: {text}" for number in range(11)] + others, [text]) == [1, 0, 0, 0]


def test_each_kind_of_leak_alone_is_a_warning():
    for prompt, said in ((LONG, "exactly"), (LONG.upper(), "but for case"), (f"So: {LONG} Now.", "with 13 words")):
        line = leaks_line("test", count_leaks([Example(LONG, "1"), Example("x", "2")], [Example(prompt, "3")]))
        assert line.startswith(f"data.test: of 1 prompts 1 {said}")


def test_words_of_chinese_and_japanese_are_characters():
    """They are written without spaces, and a whole sentence was one word."""
    asked = "小明有三个苹果，他又买了五个苹果，请问小明现在一共有几个苹果呢？"
    assert found([f"问题：{asked}请回答。", "另外一题"], [asked, "天气怎么样", asked[:4]]) == [3, 0, 0, 1]
    asked = "りんごが三つあります。五つ買いました。全部でいくつになりますか。"
    assert found([f"問題。{asked}", "別の話"], [asked, asked.replace("。", "、")]) == [2, 0, 0, 2]
    assert words("Qwen3模型, ローマ字・二つ") == ["qwen3", *"模型ローマ字二つ"]


def test_the_sign_before_a_number_is_no_punctuation():
    assert found(["Compute 3 + 4", "1-2"], ["compute: 3 * 4", "1 + 2", "1/2", "1 - 2", "Compute 3+4!"]) == [5, 0, 2, 0]
    assert words("well-known, **bold** and/or x = y") == ["well", "known", "bold", "and", "or", "x", "y"]


def test_prompts_without_words_are_compared_as_they_are():
    assert found(["???", "other"], ["!!!", "\U0001f600", "", "???"]) == [4, 1, 0, 0]


def test_accents_are_the_same_however_they_are_encoded():
    assert found(["Wie heißt Köln?", "other"], ["Wie heißt Ko\u0308ln?"]) == [1, 0, 1, 0]
