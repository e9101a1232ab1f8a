"""One design fitted to response after response: what does not hang on the response is made once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from polars_glmm.control import Control
from polars_glmm.design.records import Design
from polars_glmm.likelihood.build import estimate, estimate_summaries
from polars_glmm.likelihood.estimate import Estimate
from polars_glmm.likelihood.given import Given
from polars_glmm.likelihood.model import Model, prepare
from polars_glmm.likelihood.products.cross import CrossProducts, cross_products
from polars_glmm.likelihood.products.engine import ProductModel
from polars_glmm.linalg.threads import one_blas_thread
from polars_glmm.spec.model import ModelSpec
from polars_glmm.typing import Mat, Vec


@dataclass(eq=False)
class NewResponses:
    """A model over the rows of a design, to be fitted to other responses.

    Gaussian models keep Z'Z, Z'X and X'X, and sum Z'y, X'y and y'y anew. No Hessian is made: values are wanted.
    """

    spec: ModelSpec
    design: Design
    control: Control
    _quick: Control = field(init=False)

    def __post_init__(self) -> None:
        self._quick = replace(self.control, search=replace(self.control.search, hessian=False))

    def estimate(self, y: Vec, given: Given) -> Estimate:
        """The estimate for a response (n,). Raises GlmmError as the fit of a frame with this response would."""
        if self._products is not None and not any(name in self.design.mu.names for name in given.fixed):
            return estimate_summaries(self._with(y), self.design.mu.names, given)
        design = replace(self.design, y=y)
        return estimate(design, self.spec.family, self.spec.method, self._quick, given)

    @cached_property
    def _model(self) -> Model:
        return prepare(self.design, self.spec.family, self.spec.method, self._quick)

    @cached_property
    def _products(self) -> CrossProducts | None:
        """Products in the plain basis, where the model is gaussian and leaves enough of the response for them."""
        model = self._model
        if not model.exact:
            return None
        with one_blas_thread():
            stats = cross_products(self.design, model.x, model.effects, self.control.rows.block)
        return stats if stats.within is None and stats.start is None else None

    @cached_property
    def _weighted(self) -> Mat:
        """The fixed columns in the computing basis, times the weights: (p, n)."""
        x = np.array(self._model.x.columns(slice(None)))
        return x if self._weights is None else x * self._weights

    @cached_property
    def _weights(self) -> Vec | None:
        d = self.design
        if d.precision is None:
            return d.frequency
        return d.precision if d.frequency is None else d.precision * d.frequency

    def _with(self, y: Vec) -> ProductModel:
        """The model of cross-products with another response."""
        model, stats = self._model, self._products
        assert stats is not None
        y = y if self.design.mu.offset is None else y - self.design.mu.offset
        shift = float(y.mean()) if model.x.constant is not None else 0.0
        y = y - shift
        wy = y if self._weights is None else y * self._weights
        ww = stats.ww.copy()
        ww[:-1, -1] = ww[-1, :-1] = self._weighted @ y
        ww[-1, -1] = float(wy @ y)
        zw = []
        for f, old in zip(model.effects.factors, stats.zw, strict=True):
            new = old.copy()
            columns = model.effects.columns
            for d in range(len(new)):
                new[d, -1] = f.level_sums(wy if columns is None else wy * columns[d])
            zw.append(new)
        products = replace(stats, ww=ww, zw=zw, y_shift=shift)
        return ProductModel(
            self.design.mu.names, self.spec.family, self.spec.method, self._quick, model.x, model.effects, products
        )
