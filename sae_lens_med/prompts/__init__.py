"""Item -> text -> tokens with spans of their parts; generated text or logits -> letter."""
