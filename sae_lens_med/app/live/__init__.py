"""The live model of LLMXAI: what is run while somebody looks at a page.

    settings  limits: how many wait, how long a run may take, how strongly may be steered
    process   the model's own process, and the lines of JSON that go to and from it
    runs      one run at a time, the others in a queue; what has happened in each, for whoever listens
    steering  edits of features of a case -> a run, and what comes of it
    band      random features that stand beside them
    edited    an edited question beside the original one -> a run, what comes of it, and the row that keeps it
    child     what the process does: opens the study's model and runs it (the only part that needs torch)
    routes    pages and JSON

The serving process loads no model and no torch: the process of the model does, and can be ended.
"""
