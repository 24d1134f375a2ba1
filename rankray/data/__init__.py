"""The data: files and hub datasets to rows, rows to examples, examples to tokens.

files        reading data files into rows, without torch
examples     rows to prompts and completions, by templates or chat messages
tokenize     examples to token ids and labels
cache        tokenised splits on disk, shared by the processes of a node
"""
