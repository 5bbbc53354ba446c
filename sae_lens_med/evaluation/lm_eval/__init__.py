"""The door to lm-evaluation-harness: this package's models as `lm_eval` models, KorMedMCQA as its task."""
