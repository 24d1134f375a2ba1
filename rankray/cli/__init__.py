"""The command line: one file per group of verbs, plain functions, put together in `app`.

Every verb imports what it needs when it runs, so that the light ones answer at once.
"""
