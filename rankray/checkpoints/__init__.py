"""Where checkpoints are, which of them are kept, and how they get there. No Ray, no store, no torch.

places       a directory that all nodes see, or a prefix of an object store
retention    which checkpoints of a study stay, and when the others go
staging      trials whose checkpoints live in an object store: trained on local disk, uploaded
"""
