"""The first file: made from four answers, or from another tool's configuration.

starter        `rankray init`: a file for a model and data that were looked at
held_out       a held-out part, set aside from a data file that has none
foreign        `rankray import`: which tool a file is of, and what all have in common
trl_file       the YAML of a TRL script
llama_factory  LLaMA-Factory's
axolotl        Axolotl's
"""
