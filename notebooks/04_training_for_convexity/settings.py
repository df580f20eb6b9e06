"""Which temperature, how many neighbours, which layers, which weight: one setting changed at a time, on validation rows."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

from cells import Cell, run_cells
from convexity import CHOOSE_SEEDS, Options, read_once, score_run

__all__ = ["SETTINGS", "settings"]

# The name of a setting, and its values. All else is the default: weight 1, temperature 0.1, 10 neighbours, all layers.
SETTINGS: dict[str, tuple[float, ...]] = {
    "temperature": (0.05, 0.1, 0.2, 0.5, 2.0),
    "neighbours": (5, 20),
    "layer": (0, 1, 2),
    "raw_weight": (1.0, 10.0, 100.0),
}


def settings(options: Options) -> None:
    """Runs every value of every setting on validation rows; results in settings.jsonl."""
    read_once(options, with_test=False)
    cells = [
        Cell("settings", name, setting, float(value), seed)
        for name in options.data_sets
        for setting, values in SETTINGS.items()
        for value in values
        for seed in CHOOSE_SEEDS
    ]
    run_cells(cells, partial(measure, **options.folders), options.out / "settings.jsonl", options.processes)


def measure(cell: Cell, *, data: Path, models: Path, folder: Path) -> dict[str, float]:
    """The scores of one training run with one setting changed, on validation rows."""
    # The temperature and the raw weight are traced, so that their values share what is compiled.
    traced = cell.method in ("temperature", "raw_weight")
    objective = objective_of(cell.method, 0.0 if traced else cell.weight)
    return score_run(cell, objective, cell.weight if traced else 1.0, data=data, models=models, folder=folder)


@cache
def objective_of(setting: str, value: float) -> Any:
    """An objective with one setting of the graph convexity loss changed; its weight is the setting where that is traced."""
    import networks
    from objectives import cross_entropy, graph_convexity_raw, mean_over_layers

    from jaxconvex.losses import graph_convexity_loss, with_unit_gradient

    def with_temperature(params: Any, x: Any, y: Any, key: Any, weight: Any, context: Any) -> Any:
        logits, term = mean_over_layers(
            params, x, lambda h: with_unit_gradient(lambda h: graph_convexity_loss(h, y, temperature=weight), h)
        )
        return cross_entropy(logits, y) + term

    def with_neighbours(params: Any, x: Any, y: Any, key: Any, weight: Any, context: Any) -> Any:
        logits, term = mean_over_layers(
            params, x, lambda h: with_unit_gradient(lambda h: graph_convexity_loss(h, y, k=int(value)), h)
        )
        return cross_entropy(logits, y) + weight * term

    def of_one_layer(params: Any, x: Any, y: Any, key: Any, weight: Any, context: Any) -> Any:
        h = networks.hidden(params, x)[int(value)]
        term = with_unit_gradient(lambda h: graph_convexity_loss(h, y), h)
        return cross_entropy(networks.rest(params, int(value), h), y) + weight * term

    return {
        "temperature": with_temperature,
        "neighbours": with_neighbours,
        "layer": of_one_layer,
        "raw_weight": graph_convexity_raw,
    }[setting]
