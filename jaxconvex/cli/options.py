"""What the commands share: how options are declared, what is checked before the work, what is said after it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from jaxconvex._internal.formats import Table, require
from jaxconvex._internal.messages import in_yellow, is_terminal, say

if TYPE_CHECKING:  # help and completion come without JAX
    from jaxconvex.evaluation.sentences import Findings

__all__ = [
    "SETTINGS",
    "Options",
    "Seed",
    "declared",
    "option",
    "options_of",
    "require_extras",
    "say_found",
    "say_where",
]
__all__ += ["seed_in_range"]

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def option(name: str, metavar: str | None, text: str, **more: Any) -> Any:
    """Declare an option; where its value is one of a few words, "union|mutual", the shell completes them."""
    if metavar and "|" in metavar and metavar.islower():
        more["autocompletion"] = lambda: metavar.split("|")
    return typer.Option(*name.split(), metavar=metavar, help=text, show_default=False, **more)


def seed_in_range(value: int) -> int:
    """The seed of an option, if it lies in 0..2**32 - 1; typer reports any other as a wrong value."""
    if not 0 <= value < 2**32:
        raise typer.BadParameter(f"it must lie in 0..{2**32 - 1}; got {value}.")
    return value


Names = list[str] | None
Seed = Annotated[int, option("--seed", "N", "Seed of all that is random. [default: 0]", callback=seed_in_range)]


class Options(NamedTuple):
    """What is scored and how: the options of `score` and `compare`, named as `read_representations` and `evaluate` do."""

    labels: Annotated[
        Names,
        option(
            "--labels",
            "NAME",
            "Array or column of labels, or a file of them (.npy, .txt, .csv); again for more labelings. "
            "Where points have several: lists, or by a NAME with * columns of 1 and 0. "
            "[default: labels, label, targets, target or y]",
        ),
    ] = None
    separator: Annotated[
        str | None,
        option("--separator", "TEXT", "What stands between two labels of a point that has several, e.g. ';'."),
    ] = None
    parents: Annotated[
        Names,
        option(
            "--parents",
            "NAME",
            "Labels of the level above the first --labels, in which each class lies in one: shown as a tree; again for more "
            "levels.",
        ),
    ] = None
    predictions: Annotated[
        str | None, option("--predictions", "NAME", "Labels as the model predicts them: scored too, with recall.")
    ] = None
    groups: Annotated[
        str | None,
        option(
            "--groups",
            "NAME",
            "Array, column or file that says which points were sampled together (speaker, text): intervals leave out whole "
            "groups.",
        ),
    ] = None
    names: Annotated[
        str | None,
        option(
            "--names",
            "NAME",
            "Array, column or file of what points are called (ids, texts, file names), in the results.",
        ),
    ] = None
    layers: Annotated[
        Names,
        option(
            "--layer",
            "NAME",
            "Take only this layer, or column of a table of one layer; again for more. NAME may have * and ?.",
        ),
    ] = None
    skip: Annotated[
        Names, option("--skip", "NAME", "Leave out this array or column; again for more. NAME may have *.")
    ] = None
    axis: Annotated[
        int | None, option("--axis", "N", "The axis that counts layers in arrays (points, layers, features): 1.")
    ] = None
    pool: Annotated[
        str | None, option("--pool", "mean|cls", "How to pool arrays (points, tokens, features) over tokens.")
    ] = None
    background: Annotated[
        str | None, option("--background", "LABEL", "Points with this label shape the graph but are in no class.")
    ] = None
    max_points: Annotated[
        int | None,
        option("--max-points", "N", "Take N points at random, stratified by the first labels. [default: all]"),
    ] = None
    class_size: Annotated[
        int | None,
        option(
            "--class-size",
            "N",
            "Score each labeling on N random points of each class: for classes that differ in size.",
        ),
    ] = None
    k: Annotated[
        list[int] | None, option("--k", "K", "Nearest neighbours of a point; again for more. [default: 10]")
    ] = None
    metric: Annotated[str, option("--metric", "euclidean|cosine|manhattan", "The distance. [default: euclidean]")] = (
        "euclidean"
    )
    graph: Annotated[
        str,
        option(
            "--graph", "union|mutual", "Join two points if one, or both, is a neighbour of the other. [default: union]"
        ),
    ] = "union"
    duplicates: Annotated[
        str, option("--duplicates", "link|drop", "Join equal points, or drop the edges of length 0. [default: link]")
    ] = "link"
    max_pairs: Annotated[
        int | None, option("--pairs", "N", "Draw about N pairs of each class. [default: all pairs]")
    ] = None
    max_sources: Annotated[
        int | None,
        option(
            "--sources",
            "N",
            "Draw N points of each class and score their pairs with all others. [default: all, 64 above 100,000 points]",
        ),
    ] = None
    tolerance: Annotated[
        float | None,
        option(
            "--tolerance",
            "T",
            "Draw points until the 95% interval of each class is, approximately, T to either side, e.g. 0.01.",
        ),
    ] = None
    memory: Annotated[
        float | None, option("--memory", "GB", "Gigabytes that the work may take beyond the data. [default: no limit]")
    ] = None
    protocol: Annotated[
        str | None,
        option(
            "--protocol", "paper", "All choices as in the paper: k = 10, duplicates dropped, 5,000 pairs of each class."
        ),
    ] = None
    jackknife: Annotated[
        bool | None,
        option("--jackknife/--no-jackknife", None, "Intervals, by leaving out points. [default: up to 10,000 points]"),
    ] = None
    permutations: Annotated[
        int,
        option("--permutations", "N", "Permutations of the labels for the null. [default: 100 in score, 0 in compare]"),
    ] = 0
    why: Annotated[
        bool | None,
        option(
            "--why/--no-why",
            None,
            "Find what scores are lost to: other classes, single points. [default: to 20,000 points]",
        ),
    ] = None
    measures: Annotated[
        str,
        option(
            "--measures",
            "NAME,...",
            "Other measures of each layer: silhouette, knn_accuracy, label_overlap, linear_probe, neural_collapse, "
            "intrinsic_dimension; cka, mutual_knn with the layer before.",
        ),
    ] = ""
    holm: Annotated[bool, option("--holm", None, "Adjust p-values for their number, over classes and layers.")] = False
    seed: Seed = 0


def options_of(given: Mapping[str, Any]) -> Options:
    """The options given, the rest by default; of what was given several times each value once."""
    once: dict[str, Any] = {
        name: tuple(dict.fromkeys(value)) if isinstance(value, list) else value for name, value in given.items()
    }
    return Options(**{name: value for name, value in once.items() if value not in (None, ())})


def declared(run: Callable[..., None], hints: Mapping[str, Any], defaults: Mapping[str, Any]) -> Callable[..., None]:
    """The function with these parameters, as typer is to see them; those without a default are arguments."""
    parameters = [
        Parameter(name, Parameter.KEYWORD_ONLY, annotation=hint, default=defaults.get(name, Parameter.empty))
        for name, hint in hints.items()
    ]
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = dict(hints)
    return run


def require_extras() -> None:
    """Raise ModuleNotFoundError before the work, not after it."""
    for module in ("jinja2", "matplotlib", "rich"):
        require(module)


def say_found(found: Findings, tables: Iterable[Table], *, fold: bool = True) -> None:
    """Print what was found, what would mislead, and the tables, without the notes that were then said already.

    Tables are as wide as they need or, if `fold`, as the terminal of a person who watches.
    """
    for text in found.sentences:
        say(text)
    for text in found.warnings:
        say(in_yellow(f"Warning: {text}", sys.stdout))
    width = shutil.get_terminal_size().columns if fold and is_terminal(sys.stdout) else None
    said = (*found.sentences, *found.warnings)
    for table in tables:
        new = [note for note in table.notes if not any(text.endswith(note.removeprefix("Warning: ")) for text in said)]
        say("\n" + table._replace(notes=tuple(new)).to_text(width))


def say_where(paths: Iterable[Path], folder: Path) -> None:
    """Print the names of the files written to the folder; a figure's .svg goes without saying beside its .png."""
    names = [str(path.relative_to(folder)) for path in paths if path.suffix != ".svg"]
    say(f"\nWritten to {folder}: {', '.join(names)} (figures also as .svg)")
