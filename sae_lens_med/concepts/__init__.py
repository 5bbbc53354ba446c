"""Medical concepts: sets of them, where a text names them, and which tokens that makes.

`sets` holds the concept sets and their sources, `matching` finds them in Korean and English text. Out of scope:
negation ("no fever" names fever), and what a feature stands for.
"""
