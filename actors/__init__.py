"""The actor kinds and the vocabulary that a domain author writes with.

Read in this order: `messages` and `aggregate` (what a domain is made of), `trio_actor` with `mailbox` and `future`
(Pykka's model on trio), `journal` (the thread that writes), then `aggregate_actor` with `turn` and `recovery`.
"""
