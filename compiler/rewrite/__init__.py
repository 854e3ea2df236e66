"""Exact rewrites: the same function in a form whose tensors lose less in few bits.

Each module is one rewrite. In real numbers the rewritten graph equals the graph; in float32 it
differs by roundings (``check`` measures that it is no more).

1. ``fold``: LayerNorm's gamma and beta go into the linear layers behind it.
2. ``rotate``: where a channel of the residual stream stands out, all are mixed, and none does.
3. ``centre``: keys and values lose their mean, which attention does not need.
4. ``equalise``: queries against keys, values against the output projection, channel by channel.
"""

from moesaic.compiler.rewrite.centre import centre
from moesaic.compiler.rewrite.check import check_rewritten
from moesaic.compiler.rewrite.equalise import equalise
from moesaic.compiler.rewrite.fold import fold_norms
from moesaic.compiler.rewrite.rotate import crest, rotate_residual

__all__ = ["centre", "check_rewritten", "crest", "equalise", "fold_norms", "rotate_residual"]
