"""Where checkpoints are, which of them are kept, and how they get there. No Ray, no trial store, no torch.

places       a directory that all nodes see, or a prefix of an object store
manifest     what a checkpoint consists of, checked before it is resumed from
retention    which checkpoints of a study are kept, and when the others are deleted
staging      trials whose checkpoints are in an object store: written to local disk and uploaded
"""
