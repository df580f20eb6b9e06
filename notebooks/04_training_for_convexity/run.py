"""The evidence of "training for convexity", in one command that can be stopped and started again.

    python run.py all --data DIR --models DIR --out DIR

Every training run is a line of OUT/<experiment>.jsonl. Runs that are there are not done again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from convexity import Options

# In the order of `all`. Each is a function of Options, imported only when it is asked for.
EXPERIMENTS = {
    "choose": ("convexity", "choose", "every weight of every method, on validation rows; writes OUT/chosen.json"),
    "settings": ("settings", "settings", "the loss's own settings, one changed at a time, on validation rows"),
    "test": ("convexity", "test", "20 seeds with the chosen weights, on test rows; refuses without OUT/chosen.json"),
    "few": ("few", "few", "few labels and many unlabelled points"),
    "novel": ("novel", "novel", "new classes from few examples"),
    "confirm": ("confirm", "confirm", "whole networks, nothing frozen, at the default weight, on test rows"),
    "tables": ("tables", "tables", "tables of what was run, as CSV files in OUT/tables"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status of the command."""
    parsed = _parser().parse_args(arguments)
    try:
        from data import DATA_SETS
        from objectives import OBJECTIVES

        options = Options(
            parsed.data,
            parsed.models,
            parsed.out,
            parsed.processes,
            _known(parsed.data_sets, tuple(DATA_SETS), "data set"),
            _known(parsed.methods, tuple(OBJECTIVES), "method"),
        )
        for name in EXPERIMENTS if parsed.experiment == "all" else [parsed.experiment]:
            print(f"== {name}", file=sys.stderr)
            _experiment(name)(options)
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 1
    return 0


def _experiment(name: str) -> Callable[[Options], None]:
    module, function, _ = EXPERIMENTS[name]
    return getattr(import_module(module), function)


def _known(asked: list[str] | None, known: tuple[str, ...], what: str) -> tuple[str, ...]:
    unknown = [name for name in asked or () if name not in known]
    if unknown:
        raise ValueError(f"no {what} {', '.join(unknown)}; there are {', '.join(known)}.")
    return tuple(name for name in known if asked is None or name in asked)


def _parser() -> argparse.ArgumentParser:
    experiments = "\n".join(f"  {name:8} {words}" for name, (_, _, words) in EXPERIMENTS.items())
    parser = argparse.ArgumentParser(
        prog="run.py",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="The evidence of training for convexity. Stop it at any time; the same command goes on.",
        epilog=f"experiments:\n{experiments}\n  all      all of these, in this order",
    )
    parser.add_argument("experiment", choices=[*EXPERIMENTS, "all"], metavar="EXPERIMENT", help="one of those below")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--models", type=Path, required=True, help="folder of the pretrained encoders' checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results; runs that are in it are kept")
    parser.add_argument("--processes", type=int, default=2, help="one a core, each single threaded (default: 2)")
    parser.add_argument("--data-sets", nargs="+", metavar="NAME", help="only these (default: all)")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="only these; add `nothing`, the baseline of all")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
