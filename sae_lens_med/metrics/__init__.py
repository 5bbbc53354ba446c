"""What a metric is, and what it is given."""
