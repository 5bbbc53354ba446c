"""The tied L1 architecture and the releases, both registered with SAELens."""
