"""What earlier versions of the format wrote, in the words of the present one."""

from __future__ import annotations

from typing import Any

import numpy as np

from polars_glmm.files.records import Fetch, RecordReader
from polars_glmm.typing import Mat

_OF_FACTOR = ("term_names", "covariances", "structures", "modes", "mode_covariance", "mode_slope")


def batch_of_several(text: dict[str, Any], fetch: Fetch) -> dict[str, Any]:
    """A batch of models; in version 1 it had one grouping factor, whose numbers stood in the estimate itself."""
    estimate = dict(text["estimate"])
    if "factor" not in estimate:
        return text
    own = {name: estimate.pop(name) for name in _OF_FACTOR}
    own["mode_slope"] = None  # slopes stand in the table of levels
    estimate["factors"] = [{"record": "FactorEstimate", "name": estimate.pop("factor"), **own}]
    estimate["model_levels"] = [estimate["model_levels"]]
    rank, matrices = estimate.pop("rank"), RecordReader(fetch=fetch).read(own["covariances"], tuple[Mat, ...], "ranks")
    of_terms = [int(np.linalg.matrix_rank(matrix[0], hermitian=True)) for matrix in matrices]
    estimate["ranks"] = of_terms if len(of_terms) > 1 else [rank]
    return text | {"estimate": estimate, "level_sizes": [text["level_sizes"]]}
