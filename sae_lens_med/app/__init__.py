"""LLMXAI: a study in the browser, for clinicians and researchers. Reading needs no model and imports no torch.

`part` of `features` and `index`, `opened`, `spans`, `search`, `labels` read and make the records of `views`; `pages`,
`api`, `guard`, `export` show them.

For research, not for clinical use.
"""
