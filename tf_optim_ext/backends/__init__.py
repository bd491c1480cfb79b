"""What a traced rule becomes: one file per target.

`interpreter` runs a program on the operations of some array library; `numpy` and `tensorflow` name
those operations. `cpp` writes source code.
"""
