"""Open a model and run it: bridge, catalogue, the engine that shares prefixes, residuals, hooks on plain models."""
