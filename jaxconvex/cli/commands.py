"""What the command `jaxconvex` can do: score, compare, demo, study; their options and their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from jaxconvex._internal.messages import say
from jaxconvex.cli.options import SETTINGS, option, require_extras, say_found, say_where, seed_in_range
from jaxconvex.cli.study import app as study

__all__ = ["command"]

ABOUT = """Convexity of the regions of concepts in the latent spaces of deep networks.

A class is convex in a layer if all that lies between any two of its points is
of the class too. The graph score asks that of the points on the shortest path
in the graph of nearest neighbours: their share that is of the class, averaged
over all pairs. 100 is convex; random labels give about 100 / number of classes.

\b
  jaxconvex demo                           the whole study on real digits
  jaxconvex score embeddings.npz           every array beside "labels" is a layer
  jaxconvex compare before.npz after.npz   two models on the same points
  jaxconvex study --help                   the paper's experiment, five domains
"""

SCORE = """The convexity of every layer in FILE, with intervals, the null and a report to read.

\b
FILE is one of
  .npz, .safetensors  every array (points, features) beside the labels is a layer
  .csv                the numeric columns are one layer, but for ids, constants
                      and the like (--layer NAME takes them); or columns
                      NAME/0, NAME/1, ... are the layer NAME
  .parquet            likewise; and a column of lists is a layer
  .npy                one layer, the labels being in another file
  a folder            that jaxconvex.extract wrote, the labels being in another file

\b
Examples
  jaxconvex score embeddings.npz
  jaxconvex score embeddings.npz --labels species --predictions predicted
  jaxconvex score embeddings.npz --labels species --labels genus --k 5 --k 10
  jaxconvex score embeddings.npz --labels species --parents genus   # as a tree
  jaxconvex score embeddings.npy --labels labels.csv --max-points 5000
  jaxconvex score embeddings.npz --names texts      # who intrudes, by name
  jaxconvex score embeddings.npz --measures linear_probe,intrinsic_dimension
  jaxconvex score states.npz --axis 1 --pool mean   # (points, layers, tokens, features)
  jaxconvex score embeddings.npz --protocol paper --out results

Labels are integers or text; in .csv and .txt they are the text that stands
there, "NA" and "007" too. Layers whose names are alike but for numbers come in
natural order (layer 2 before layer 10), others as in the file. A run that was
interrupted goes on where it stopped when it is started again.
"""

COMPARE = """The differences B - A of every layer and class, with paired intervals.

A and B are files as for `jaxconvex score`, with the same points in the same
order and the same layers, which are scored first; or results of it: folders, or
their scores.json. The jackknife leaves out the same points of both, so that what
A and B share of the sampling error cancels; with many points it takes long, so
take some of them (--max-points).

\b
Examples
  jaxconvex compare pretrained.npz finetuned.npz --labels species
  jaxconvex compare pretrained-convexity finetuned-convexity --classes
"""

DEMO = """The whole study on real data: the 1,797 handwritten digits of scikit-learn.

A small transformer is pretrained without labels (it fills in masked patches),
then fine-tuned to tell the digits apart. All its layers are scored before and
after, on held-out digits. Takes about two minutes on two cores; report.html
shows the profiles, the classes and the correlation with recall.
"""

NOTES = """JAXCONVEX_DEBUG=1 prints tracebacks. Compiled code is kept in
$XDG_CACHE_HOME/jaxconvex or ~/.cache/jaxconvex; JAX_COMPILATION_CACHE_DIR names
another folder, JAX_ENABLE_COMPILATION_CACHE=false keeps none."""

app = typer.Typer(
    help=ABOUT,
    epilog=NOTES,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=SETTINGS,
)


Names = list[str] | None
Labels = Annotated[
    Names,
    option(
        "--labels",
        "NAME",
        "Array or column of labels, or a file of them (.npy, .txt, .csv); again for more labelings. "
        "[default: labels, label, targets, target or y]",
    ),
]
Parents = Annotated[
    Names,
    option(
        "--parents",
        "NAME",
        "Labels of the level above the first --labels, in which each class lies in one: shown as a tree; again for more "
        "levels.",
    ),
]
Predictions = Annotated[
    str | None, option("--predictions", "NAME", "Labels as the model predicts them: scored too, with recall.")
]
Groups = Annotated[
    str | None,
    option(
        "--groups",
        "NAME",
        "Array, column or file that says which points were sampled together (speaker, text): intervals leave out whole "
        "groups.",
    ),
]
Called = Annotated[
    str | None,
    option(
        "--names", "NAME", "Array, column or file of what points are called (ids, texts, file names), in the results."
    ),
]
Layers = Annotated[
    Names,
    option(
        "--layer",
        "NAME",
        "Take only this layer, or column of a table of one layer; again for more. NAME may have * and ?.",
    ),
]
Skip = Annotated[Names, option("--skip", "NAME", "Leave out this array or column; again for more. NAME may have *.")]
Axis = Annotated[
    int | None, option("--axis", "N", "The axis that counts layers in arrays (points, layers, features): 1.")
]
Pool = Annotated[str | None, option("--pool", "mean|cls", "How to pool arrays (points, tokens, features) over tokens.")]
Background = Annotated[
    str | None, option("--background", "LABEL", "Points with this label shape the graph but are in no class.")
]
MaxPoints = Annotated[
    int | None, option("--max-points", "N", "Take N points at random, stratified by the first labels. [default: all]")
]
ClassSize = Annotated[
    int | None,
    option(
        "--class-size", "N", "Score each labeling on N random points of each class: for classes that differ in size."
    ),
]
Why = Annotated[
    bool | None,
    option(
        "--why/--no-why",
        None,
        "Find what scores are lost to: other classes, single points. [default: to 20,000 points]",
    ),
]
Measures = Annotated[
    str | None,
    option(
        "--measures",
        "NAME,...",
        "Other measures of each layer: silhouette, knn_accuracy, label_overlap, linear_probe, neural_collapse, "
        "intrinsic_dimension; cka, mutual_knn with the layer before.",
    ),
]
Holm = Annotated[bool, option("--holm", None, "Adjust p-values for their number, over classes and layers.")]
Neighbors = Annotated[
    list[int] | None, option("--k", "K", "Nearest neighbours of a point; again for more. [default: 10]")
]
Metric = Annotated[str, option("--metric", "euclidean|cosine|manhattan", "The distance. [default: euclidean]")]
GraphMode = Annotated[
    str,
    option("--graph", "union|mutual", "Join two points if one, or both, is a neighbour of the other. [default: union]"),
]
Duplicates = Annotated[
    str, option("--duplicates", "link|drop", "Join equal points, or drop the edges of length 0. [default: link]")
]
Pairs = Annotated[int | None, option("--pairs", "N", "Draw about N pairs of each class. [default: all pairs]")]
Sources = Annotated[
    int | None,
    option(
        "--sources",
        "N",
        "Draw N points of each class and score their pairs with all others. [default: all, 64 above 100,000 points]",
    ),
]
Tolerance = Annotated[
    float | None,
    option(
        "--tolerance",
        "T",
        "Draw points until the 95% interval of each class is, approximately, T to either side, e.g. 0.01.",
    ),
]
Memory = Annotated[
    float | None, option("--memory", "GB", "Gigabytes that the work may take beyond the data. [default: no limit]")
]
Protocol = Annotated[
    str | None,
    option(
        "--protocol", "paper", "All choices as in the paper: k = 10, duplicates dropped, 5,000 pairs of each class."
    ),
]
Jackknife = Annotated[
    bool | None,
    option("--jackknife/--no-jackknife", None, "Intervals, by leaving out points. [default: up to 10,000 points]"),
]
Permutations = Annotated[
    int,
    option("--permutations", "N", "Permutations of the labels for the null. [default: 100 in score, 0 in compare]"),
]
Seed = Annotated[int, option("--seed", "N", "Seed of all that is random. [default: 0]", callback=seed_in_range)]
Out = Annotated[
    Path | None, option("--out -o", "FOLDER", "Where the results are written. [default: named after the input]")
]
DemoOut = Annotated[Path, option("--out -o", "FOLDER", "Where the results are written. [default: jaxconvex-demo]")]
Classes = Annotated[bool, option("--classes", None, "Print the scores of the single classes too.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="The representations.", show_default=False)]
First = Annotated[Path, typer.Argument(metavar="A", help="File or result of the one model.", show_default=False)]
Second = Annotated[Path, typer.Argument(metavar="B", help="File or result of the other.", show_default=False)]


def _about(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version.")] = False,
) -> None:
    if version:
        from jaxconvex import __version__

        typer.echo(f"jaxconvex {__version__}")
        raise typer.Exit()


app.callback(invoke_without_command=True)(_about)


def _options(context: typer.Context) -> Any:
    """The options given, the rest by default."""
    from jaxconvex.cli.scoring import Options

    given = {name: context.params.get(name) for name in Options._fields}
    if given["measures"] is not None:
        given["measures"] = [name.strip() for name in given["measures"].split(",") if name.strip()]
    values: dict[str, Any] = {
        name: tuple(dict.fromkeys(value)) if isinstance(value, list) else value for name, value in given.items()
    }
    return Options(**{name: value for name, value in values.items() if value is not None and value != ()})


def _print(result: Any, classes: bool, **beside: Any) -> None:
    from jaxconvex.evaluation.sentences import findings
    from jaxconvex.evaluation.why import why_tables

    tables = result.tables() + (result.tables(classes=True) if classes else [])
    looked = [(row.labeling, row.k) for row in getattr(result, "intrusions", ())][:1]  # a comparison has none
    tables += [table for each in looked for table in why_tables(result, *each, short=True)]
    say_found(findings(result, **beside), tables)


@app.command("score", help=SCORE, short_help="Score every layer of your representations.")
def _score(
    context: typer.Context,
    file: File,
    labels: Labels = None,
    parents: Parents = None,
    predictions: Predictions = None,
    groups: Groups = None,
    names: Called = None,
    layers: Layers = None,
    skip: Skip = None,
    axis: Axis = None,
    pool: Pool = None,
    background: Background = None,
    max_points: MaxPoints = None,
    class_size: ClassSize = None,
    k: Neighbors = None,
    metric: Metric = "euclidean",
    graph: GraphMode = "union",
    duplicates: Duplicates = "link",
    max_pairs: Pairs = None,
    max_sources: Sources = None,
    tolerance: Tolerance = None,
    memory: Memory = None,
    protocol: Protocol = None,
    jackknife: Jackknife = None,
    permutations: Permutations = 100,
    why: Why = None,
    measures: Measures = None,
    holm: Holm = False,
    seed: Seed = 0,
    out: Out = None,
    classes: Classes = False,
) -> None:
    from jaxconvex.cli import scoring, writing

    require_extras()
    data = scoring.read(file, _options(context))
    with writing.output_folder(out or writing.free_folder("convexity", [file])) as folder:
        report = scoring.score(data, _options(context), folder / writing.CACHE)
        paths = writing.write_scores(report, folder, [file])
        _print(report, classes)
        say_where(paths, folder)


@app.command("compare", help=COMPARE, short_help="Compare two models on the same points.")
def _compare(
    context: typer.Context,
    a: First,
    b: Second,
    labels: Labels = None,
    predictions: Predictions = None,
    groups: Groups = None,
    layers: Layers = None,
    skip: Skip = None,
    axis: Axis = None,
    pool: Pool = None,
    background: Background = None,
    max_points: MaxPoints = None,
    class_size: ClassSize = None,
    k: Neighbors = None,
    metric: Metric = "euclidean",
    graph: GraphMode = "union",
    duplicates: Duplicates = "link",
    max_pairs: Pairs = None,
    max_sources: Sources = None,
    tolerance: Tolerance = None,
    memory: Memory = None,
    permutations: Permutations = 0,
    seed: Seed = 0,
    out: Out = None,
    classes: Classes = False,
) -> None:
    from jaxconvex.cli import scoring, writing

    require_extras()
    sides = scoring.read_sides(a, b, _options(context))
    with writing.output_folder(out or writing.free_folder("comparison", [a, b], list(sides))) as folder:
        comparison, reports = scoring.compare(sides, _options(context), folder / writing.CACHE)
        paths = writing.write_comparison(comparison, reports, folder, [a, b])
        for name, file in zip(sides, (a, b), strict=True):
            if sides[name] is not reports[name]:
                paths += writing.write_scores(reports[name], folder / name, [file])
        _print(comparison, classes, reports=reports)
        say_where(paths, folder)


@app.command("demo", help=DEMO, short_help="The whole study on real digits.")
def _demo(out: DemoOut = Path("jaxconvex-demo"), seed: Seed = 0) -> None:
    from jaxconvex.cli import scoring, writing

    require_extras()
    with writing.output_folder(out) as folder:
        say(str(scoring.demonstrate(folder, seed)))


app.add_typer(study, name="study", short_help="The paper's experiment in five domains.")

command = typer.main.get_command(app)
