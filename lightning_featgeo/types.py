"""Named-axis tensor types.

Axes: ``n`` rows, ``m`` other rows, ``d`` feature dimensions, ``k`` neighbours, ``c`` classes.
The names are checked at run time under pytest only (jaxtyping + beartype).
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

__all__ = ["Bool", "Float", "Int32", "Int64", "Tensor"]
