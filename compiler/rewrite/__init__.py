"""Exact rewrites: the same function in a form whose tensors lose less in few bits.

Each module is one rewrite. In real numbers the rewritten graph equals the graph; in float32 it
differs by roundings (``check`` measures that it is no more).

1. ``fold``: LayerNorm's gamma and beta go into the linear layers behind it.
2. ``rotate``: the channels of the residual stream are mixed, so that no channel stands out.
3. ``centre``: keys and values lose their mean, which attention does not need.
4. ``equalise``: queries against keys, values against the output projection, channel by channel.
"""

from moesaic.compiler.rewrite.centre import centre
from moesaic.compiler.rewrite.check import check_rewritten
from moesaic.compiler.rewrite.equalise import equalise
from moesaic.compiler.rewrite.fold import fold_norms
from moesaic.compiler.rewrite.rotate import rotate_residual

__all__ = ["centre", "check_rewritten", "equalise", "fold_norms", "rotate_residual"]
