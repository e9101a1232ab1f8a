"""A question met with more rows than memory holds: constants learned by queries, rows read once into parts on disk."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from polars_glmm import progress
from polars_glmm.design.disk.write import DiskRoom, partition
from polars_glmm.design.inquired import ApartLearned, asked_of, require_groups_fit, settled, trials_of
from polars_glmm.frames.missing import check_missing
from polars_glmm.frames.source import Source
from polars_glmm.spec.model import ModelSpec
from polars_glmm.spill import Spill


class Sizes(NamedTuple):
    """About how many rows there are; bytes that one part of the rows, and one group while it is fitted, may take."""

    n_rows: int
    part_bytes: int
    group_bytes: int


def learn_stored(
    spec: ModelSpec,
    frame: pl.LazyFrame,
    spill: Spill,
    sizes: Sizes,
    *,
    missing: Literal["drop", "error"] = "drop",
) -> ApartLearned:
    """Recipe and stored rows of a model of at most one grouping factor, equal to what `learn` makes of the frame.

    Raises what `learn` raises, ResourceError on a full disk or for a group too large to be worked on in memory,
    DataChangedError where the source changes meanwhile.
    """
    check_missing(missing)
    spec = spec.resolve(frozenset(frame.collect_schema().names()))
    source = Source.of(spec, frame)
    query, source = source.frame, replace(source, tried=trials_of(spec, source))
    with progress.stage("learning"):
        asked = asked_of(spec, source)
    recipe = asked.recipe
    level_rows = asked.level_rows[0] if asked.level_rows else np.empty(0, dtype=np.int64)
    require_groups_fit(recipe, level_rows, sizes.group_bytes)
    room = DiskRoom(spill, sizes.part_bytes, sizes.n_rows, level_rows)
    stored, left_out, n_dropped = partition(recipe, query, room, asked.found_again(), refuse_missing=missing == "error")
    recipe, stored, notes = settled(asked, stored)
    return ApartLearned(recipe, stored, left_out + notes, n_dropped)
