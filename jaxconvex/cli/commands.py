"""What the command `jaxconvex` can do: score, compare, demo, study; their options and their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from jaxconvex._internal.messages import say
from jaxconvex.cli.options import (
    SETTINGS,
    Options,
    Seed,
    declared,
    option,
    options_of,
    require_extras,
    say_found,
    say_where,
)
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
  jaxconvex score photos.csv --labels tags --separator ";"           # several a point
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


def _print(result: Any, classes: bool, **beside: Any) -> None:
    from jaxconvex.evaluation.sentences import findings
    from jaxconvex.evaluation.why import why_tables

    tables = result.tables() + (result.tables(classes=True) if classes else [])
    looked = [(row.labeling, row.k) for row in getattr(result, "intrusions", ())][:1]  # a comparison has none
    tables += [table for each in looked for table in why_tables(result, *each, short=True)]
    say_found(findings(result, **beside), tables)


def _score(file: Path, out: Path | None, classes: bool, **given: Any) -> None:
    from jaxconvex.cli import scoring, writing

    require_extras()
    options = options_of(given)
    data = scoring.read(file, options)
    with writing.output_folder(out or writing.free_folder("convexity", [file])) as folder:
        report = scoring.score(data, options, folder / writing.CACHE)
        paths = writing.write_scores(report, folder, [file])
        _print(report, classes)
        say_where(paths, folder)


def _compare(a: Path, b: Path, out: Path | None, classes: bool, **given: Any) -> None:
    from jaxconvex.cli import scoring, writing

    require_extras()
    options = options_of(given)
    sides = scoring.read_sides(a, b, options)
    with writing.output_folder(out or writing.free_folder("comparison", [a, b], list(sides))) as folder:
        comparison, reports = scoring.compare(sides, options, folder / writing.CACHE)
        paths = writing.write_comparison(comparison, reports, folder, [a, b])
        for name, file in zip(sides, (a, b), strict=True):
            if sides[name] is not reports[name]:
                paths += writing.write_scores(reports[name], folder / name, [file])
        _print(comparison, classes, reports=reports)
        say_where(paths, folder)


HINTS: dict[str, Any] = get_type_hints(Options, include_extras=True) | {"out": Out, "classes": Classes}
DEFAULTS: dict[str, Any] = Options._field_defaults | {"out": None, "classes": False}
app.command("score", help=SCORE, short_help="Score every layer of your representations.")(
    declared(_score, {"file": File, **HINTS}, DEFAULTS | {"permutations": 100})
)
# A comparison always has the jackknife, which the protocol leaves out.
OF_BOTH = {name: hint for name, hint in HINTS.items() if name not in ("protocol", "jackknife", "holm")}
app.command("compare", help=COMPARE, short_help="Compare two models on the same points.")(
    declared(_compare, {"a": First, "b": Second, **OF_BOTH}, DEFAULTS)
)


@app.command("demo", help=DEMO, short_help="The whole study on real digits.")
def _demo(out: DemoOut = Path("jaxconvex-demo"), seed: Seed = 0) -> None:
    from jaxconvex.cli import scoring, writing

    require_extras()
    with writing.output_folder(out) as folder:
        say(str(scoring.demonstrate(folder, seed)))


app.add_typer(study, name="study", short_help="The paper's experiment in five domains.")

command = typer.main.get_command(app)
