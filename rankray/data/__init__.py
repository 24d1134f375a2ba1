"""The data: from files and hub datasets to rows, from rows to examples, from examples to tokens.

files        read data files into rows, without torch
examples     turn rows into prompts and completions, by templates or from chat messages
tokenize     turn examples into token ids and labels
cache        tokenised splits on disk, shared by the processes of a node
"""
