"""Statistics: what repeated runs tell. Numpy and scipy only.

intervals    means, Welch's comparison, what a number of seeds can tell
sequential   corrected levels for those who look before the end
verdict      one of four words on a setting against a baseline
"""
