"""What runs a program over variables and their slots.

`native` calls the compiled kernels. `interpreter` runs a program on the operations of an array
library; `numpy` and `tensorflow` name those operations.
"""
