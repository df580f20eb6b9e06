"""What the command `jaxconvex study` can do: a domain, all domains of a file, and the report of several."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from jaxconvex.command_options import SETTINGS, option, require_extras, say_where, seed_in_range
from jaxconvex.formats import require
from jaxconvex.messages import in_red, say

__all__ = ["app"]

ABOUT = """The paper's experiment on real networks and real data: five domains, or your own.

A pretrained network gets a softmax probe on its last layer, and is then
fine-tuned, once a seed. Every layer is scored before and after, on points of
speakers, volunteers or pictures that training never saw: graph and Euclidean
convexity, by predicted and by true labels, with the null and intervals. The
report says what fine-tuning changed, whether pretrained convexity tells the
recall after it, how far that depends on the way of measuring, and what simpler
measures say.

\b
  jaxconvex study images   --data fashion_mnist --encoder efficientnet-lite0
  jaxconvex study speech   --data fsdd/recordings --encoder openai/whisper-tiny
  jaxconvex study text     --data banking77 --encoder sentence-transformers/all-MiniLM-L6-v2
  jaxconvex study activity --data hmp
  jaxconvex study medical  --data BCCD --encoder efficientnet-lite0
  jaxconvex study all studies.toml         all domains that a file describes
  jaxconvex study report studies/*         one report from the results of several

A run that was stopped goes on where it was when it is started again.
"""

LAYOUTS = {
    "images": "DATA is a folder of MNIST's idx files, or a folder LABEL/*.png a class, optionally below train/ and test/.",
    "medical": "DATA is a folder of Pascal VOC (Annotations, JPEGImages), whose boxes are cut out, or a folder LABEL/*.png.",
    "speech": "DATA is a folder of {digit}_{speaker}_{index}.wav, or a folder LABEL/*.wav, or LABEL/SPEAKER/*.wav.",
    "text": "DATA is a .csv with the columns text and category (or label), or a folder with train.csv and test.csv.",
    "activity": "DATA is the folder of the wrist accelerometer data (HMP), or LABEL/VOLUNTEER/*.csv of three columns in g.",
}

ENCODERS = {
    "images": "ENCODER is a folder or hub id of EfficientNet-lite0, ViT, BEiT, data2vec-vision or DINOv2.",
    "medical": "ENCODER is a folder or hub id of EfficientNet-lite0, ViT, BEiT, data2vec-vision or DINOv2.",
    "speech": "ENCODER is a folder or hub id of Whisper, wav2vec2, HuBERT, data2vec-audio or WavLM.",
    "text": "ENCODER is a folder or hub id of BERT, RoBERTa, LUKE, DistilBERT or another text family.",
    "activity": "Without ENCODER a 1-D residual network is pretrained on the training volunteers, without labels.",
}

VIT = "Without ENCODER a small vision transformer is pretrained on the training part, without labels."

ALL = """All domains of a TOML file, one after the other, and the report that joins them.

\b
A table for each domain; `like` names the domain it starts from where the
table's own name does not; every field of jaxconvex.study.domains.Domain can be
set. Paths are relative to the file.

\b
  [speech]
  data = "fsdd/recordings"
  encoder = "openai/whisper-tiny"
  [birds]
  like = "speech"
  data = "songs"                    # songs/LABEL/*.wav
  encoder = "openai/whisper-tiny"
  seeds = 1
"""

REPORT = """One report from the results of several domains: profiles side by side, the change
by fine-tuning, the correlation of pretrained convexity with recall, pooled and
within domains, and plain statements with their intervals.
"""

app = typer.Typer(
    help=ABOUT, no_args_is_help=True, add_completion=False, rich_markup_mode=None, context_settings=SETTINGS
)

Data = Annotated[str, option("--data", "DIR", "The data, in the form in which its authors publish it.")]
Encoder = Annotated[
    str | None,
    option("--encoder", "DIR|ID", "The checkpoint: a folder, or owner/name on the hub."),
]
Family = Annotated[str | None, option("--family", "NAME", "The family of a checkpoint without config.json.")]
Classes = Annotated[
    int | None, option("--classes", "N", "The N classes with most points. [default: as the domain says]")
]
Train = Annotated[int | None, option("--train", "N", "At most N points to train on.")]
Test = Annotated[int | None, option("--test", "N", "At most N points to measure on.")]
Epochs = Annotated[int | None, option("--epochs", "N", "At most N epochs of fine-tuning; it stops early.")]
Rate = Annotated[float | None, option("--learning-rate", "R", "The largest learning rate of fine-tuning.")]
Seeds = Annotated[int | None, option("--seeds", "N", "Fine-tunings, shuffled with seeds 0 to N - 1. [default: 3]")]
Segments = Annotated[int | None, option("--segments", "N", "Pairs of a class and layer for the Euclidean score.")]
Neighbors = Annotated[int | None, option("--k", "K", "Nearest neighbours in the graph. [default: 10]")]
Protocol = Annotated[
    str | None,
    option(
        "--protocol", "paper", "The paper's choices: k = 10, duplicates dropped, 5,000 pairs. Slow without accelerator."
    ),
]
Seed = Annotated[
    int,
    option("--seed", "N", "Seed of the split, the pairs and the permutations. [default: 0]", callback=seed_in_range),
]
Out = Annotated[Path | None, option("--out -o", "FOLDER", "Where results are written. [default: studies/NAME]")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="The domains, as TOML.", show_default=False)]
Only = Annotated[list[str] | None, option("--only", "NAME", "Only this domain of the file; again for more.")]
Folder = Annotated[Path, option("--out -o", "FOLDER", "Where results are written. [default: studies]")]
Folders = Annotated[list[Path], typer.Argument(metavar="DIR...", help="Results of studies.", show_default=False)]
JointOut = Annotated[Path, option("--out -o", "FOLDER", "Where the report is written. [default: studies-report]")]


def _one(name: str, changes: dict[str, Any], seed: int, out: Path) -> Any:
    from jaxconvex.study.domains import domain

    made = domain(name, **{field: value for field, value in changes.items() if value is not None})
    return _run([made], seed, {made.name: out})[0]


def _run(domains: Sequence[Any], seed: int, folders: dict[str, Path]) -> list[Any]:
    """The studies of the domains, each written to its folder with its page."""
    require_extras()
    require("safetensors", "encoders")
    from jaxconvex import scoring, writing
    from jaxconvex.study.reporting.summary import summary_table

    studies = []
    for made in domains:
        with writing.output_folder(folders[made.name]) as folder:
            study, paths = scoring.study_domain(made, folder, seed)
            studies.append(study)
            _say_alarms([study])
            say(summary_table([study]).to_text())
            say_where(paths, folder)
    return studies


def _say_alarms(studies: Sequence[Any]) -> None:
    """Says first, in red, what failed."""
    from jaxconvex.study.failures import alarm

    for text in filter(None, map(alarm, studies)):
        say(in_red(text, sys.stdout))


CHANGES = ["data", "encoder", "family", "classes", "train", "test", "epochs", "learning_rate", "seeds", "segments"]
CHANGES += ["k", "protocol"]


def _command(name: str) -> None:
    def run(
        context: typer.Context,
        data: Data,
        encoder: Encoder = None,
        family: Family = None,
        classes: Classes = None,
        train: Train = None,
        test: Test = None,
        epochs: Epochs = None,
        learning_rate: Rate = None,
        seeds: Seeds = None,
        segments: Segments = None,
        k: Neighbors = None,
        protocol: Protocol = None,
        seed: Seed = 0,
        out: Out = None,
    ) -> None:
        changes = {field: context.params[field] for field in CHANGES}
        _one(name, changes, seed, out or Path("studies") / name)

    modality = name.split("-")[0]
    encoder = VIT if name == "images-vit" else ENCODERS[modality]
    lines = [f"The study of one domain. {SHORT[name]}", LAYOUTS[modality], encoder]
    app.command(name, help="\n\n".join(lines), short_help=SHORT[name])(run)


SHORT = {
    "images": "Pictures, with a convolutional network or a vision transformer.",
    "images-vit": "Pictures, with a small transformer pretrained here on masked patches.",
    "speech": "Spoken words, with Whisper's encoder.",
    "text": "Short texts in 20 classes, with a BERT-like encoder.",
    "text-77": "The same in all classes.",
    "activity": "Movements of the wrist, with a network pretrained here without labels.",
    "medical": "Cells cut out of microscope pictures.",
}

for _name in SHORT:
    _command(_name)


@app.command("all", help=ALL, short_help="All domains of a TOML file, and their joint report.")
def _all(file: File, only: Only = None, seed: Seed = 0, out: Folder = Path("studies")) -> None:
    from jaxconvex.study.domains import read_domains

    domains = read_domains(file)
    known = [made.name for made in domains]
    for name in only or ():
        if name not in known:
            raise ValueError(f"{file} has no domain {name!r}; it has {', '.join(known)}.")
    chosen = [made for made in domains if not only or made.name in only]
    studies = _run(chosen, seed, {made.name: out / made.name for made in chosen})
    if len(studies) > 1:
        _join(studies, out / "report")


@app.command("report", help=REPORT, short_help="One report from the results of several studies.")
def _report(folders: Folders, out: JointOut = Path("studies-report")) -> None:
    from jaxconvex.study.results import read_study

    require_extras()
    # A folder of studies stands for them; what is no study, such as a joint report, is passed over.
    inside = [[place] if (place / "study.json").exists() else sorted(place.glob("*/study.json")) for place in folders]
    found = [read_study(path) for paths in inside for path in paths]
    if not found:
        raise ValueError(f"no study.json in {', '.join(map(str, folders))}. Run jaxconvex study NAME first.")
    _join(found, out)


def _join(studies: Sequence[Any], out: Path) -> None:
    from jaxconvex import writing
    from jaxconvex.study.reporting.pages import write_joint_page
    from jaxconvex.study.reporting.summary import summary_table
    from jaxconvex.study.statements import statements

    with writing.output_folder(out) as folder:
        paths = write_joint_page(studies, folder)
        _say_alarms(studies)
        say(summary_table(studies).to_text())
        several = len(studies) > 1
        for statement in statements(studies):
            if not several or statement.domain == "all":  # those of the single domains are on their pages
                say(f"- {statement.text}")
        say_where(paths, folder)
        say(f"Read {folder / 'report.html'}.", stream="stderr")
