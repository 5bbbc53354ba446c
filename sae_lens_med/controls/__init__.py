"""Controls of the instrument: dictionaries and networks that have learned nothing, on the same texts."""
