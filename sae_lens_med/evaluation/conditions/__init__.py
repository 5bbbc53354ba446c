"""Accuracy under several conditions at once: interventions on SAE features beside the plain model."""
