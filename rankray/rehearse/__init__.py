"""A whole search in virtual time: what a sampler and a pruner make of a budget, before anything is spent.

    table        recorded runs, one row per (setting, seed, step), from csv or parquet
    worlds       what a trial would report: surrogates of a table, or made-up bowls
    surrogates   the families that a table is fitted with, so that none is flattered
    replay       one search in a world, through the real store, sampler and pruner
    summary      many searches, and what is said of them

A rehearsal needs neither torch nor Ray, and the store's own storage is not touched.
"""
