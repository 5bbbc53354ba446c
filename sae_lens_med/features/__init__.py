"""Feature activations of items: `collect` makes them, `store` keeps them, `contexts` shows where each feature fires.

Nothing is imported here: what reads features from disk needs no torch.
"""
