"""Parts of a model that are a user's own: how their code is named, run and trusted.

Knows files, Python modules and hashes; knows nothing of what a part does in a model.
"""
