"""The offline world of `rankray quickstart`: its language, its model and data, and the search on them."""
