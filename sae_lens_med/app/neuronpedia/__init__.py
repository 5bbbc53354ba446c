"""A study's features in the two forms that Neuronpedia reads: upload batches of its API, and its bulk layout.

    study + index ──contexts──► FeatureRecord ──► upload/batch-000.json                        the API, for anybody
                                             └──► bulk/MODEL/SOURCE/features/batch-0.jsonl.gz  the bulk import

Nothing is uploaded.
"""
