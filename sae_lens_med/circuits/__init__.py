"""Circuits: which parts of a model carry an answer, each with a gate before any claim.

`pairs` (texts that differ in what the answer turns on, and the metric), `graph` and `decoder` (a model as a graph of
heads and MLPs), `edges` (attribution), `faithfulness` (what a circuit does), `ioi` (a task that small models can do);
`spliced`, `nodes`, `node_faithfulness` and `node_run` are the same of SAE features, `expert` what an expert names.
"""
