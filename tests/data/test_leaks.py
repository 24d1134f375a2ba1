from rankray.data.chat import Example
from rankray.data.leaks import count_leaks, leaks_line

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
