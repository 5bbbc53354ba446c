"""Attributes of the patient: what a model's answer does when only who the patient is changes."""
