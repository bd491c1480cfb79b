"""`python -m tf_optim_ext.native` builds the native library in place."""

import sys

from tf_optim_ext.native import build

problem = build.build_or_report(build.HERE)
sys.exit(f"not built: {problem}" if problem else 0)
