"""The model: its head without logits, weights shared by the processes of a node, what is kept between trials.

head         hidden states, head and labels for the fused losses, from any causal language model
files        what a model directory says, read without torch
mapped       base weights mapped from the model's own files
resident     tokenizer, data and base weights kept from one trial to the next
"""
