"""Controls of the instrument: dictionaries and networks that have learned nothing, on the same texts.

`untrained` makes them (directions shuffled, weights permuted, firing rates matched); `collect` collects their features
on a study's own texts, where the metrics measure them by the code of the real ones.
"""
