"""The knowledge map of a study's model: what `map layers`, `map answer` and `map features` wrote, as pages."""
