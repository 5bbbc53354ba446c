"""Model organisms: tiny models that answer the same exam equally well, and whose mechanism is known because they were
trained to have it. The positive control of the instrument, and its negative one.

    tables.py     findings, diseases, drugs, places, sentences
    cases.py      cases -> exam items; natural items, and items in which the cues disagree
    designs.py    what a name says
    texts.py      what an organism is trained on
    tokenizer.py  the words of the exam as an ordinary tokenizer
    train.py      name -> an ordinary model folder
    dictionary.py the tied SAE of an organism, by this package's own training
    check.py      the proof: accuracy, conflicts, interchange, probes

`load_model("organism/ko-concepts-0")` opens one (`models.organisms` says where they lie).
"""
