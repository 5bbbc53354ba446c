"""Rating of rationales by people who do not know where each comes from.

Out of scope: what the ratings say (`alignment.ratings`), the form of their file (`alignment.ratings_file`).
"""
