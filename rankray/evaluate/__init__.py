"""How good a model is on held-out examples: plain NLL, token accuracy, answers. Never a weighted loss.

run          `evaluate(model, tokenizer, data, config)`: the metrics that `evaluate:` asks for
metrics      how each of them is computed
generate     greedy and sampled answers, in batches
answers      which part of a text is the answer, and when two answers are the same
"""
