"""What the command `jaxconvex study` can do: a domain, all domains of a file, and the report of several."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from jaxconvex._internal.formats import require
from jaxconvex._internal.messages import in_red, say
from jaxconvex.cli.options import SETTINGS, declared, option, require_extras, say_found, say_where, seed_in_range
from jaxconvex.study.domains import DOMAINS, METRICS

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

\b
{sizes}
"""


def _sizes() -> str:
    """The defaults of all domains as a table of text."""
    fields = ("train", "validation", "test", "classes", "fewest", "seeds", "epochs", "learning_rate", "segments")
    lines: list[tuple[str, ...]] = [
        ("Defaults", "train", "valid.", "test", "classes", "fewest", "seeds", "epochs", "rate", "segments")
    ]
    for name, domain in DOMAINS.items():
        cells = [getattr(domain, field) for field in fields]
        lines.append((name, *("all" if cell is None else f"{cell:g}" for cell in cells)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join(rows)


LAYOUTS = {
    "images": "DATA is a folder of MNIST's idx files, or a folder LABEL/*.png (or jpg, webp, bmp, tif) a class, or "
    "LABEL/GROUP/*.png, optionally below train/ and test/.",
    "medical": "DATA is a folder of Pascal VOC (Annotations, JPEGImages), whose boxes are cut out, or a folder LABEL/*.png.",
    "speech": "DATA is a folder of {digit}_{speaker}_{index}.wav, or a folder LABEL/*.wav (or flac, ogg, mp3, ...), or "
    "LABEL/SPEAKER/*.wav.",
    "text": "DATA is a .csv with the columns text and category (or label) and, optionally, group, or a folder with "
    "train.csv and test.csv.",
    "activity": "DATA is the folder of the wrist accelerometer data (HMP), or LABEL/VOLUNTEER/*.csv of three columns in g.",
}

ENCODERS = {
    "images": "ENCODER is a folder or hub id of EfficientNet-lite0, ViT, BEiT, data2vec, DINOv2, DINOv3, CLIP or SigLIP.",
    "medical": "ENCODER is a folder or hub id of EfficientNet-lite0, ViT, BEiT, data2vec, DINOv2, DINOv3, CLIP or SigLIP.",
    "speech": "ENCODER is a folder or hub id of Whisper, wav2vec2, HuBERT, data2vec-audio or WavLM.",
    "text": "ENCODER is a folder or hub id of BERT, RoBERTa, ModernBERT, CLIP or another text family.",
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
    help=ABOUT.replace("{sizes}", _sizes()),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings=SETTINGS,
)

OPTIONS = {  # field of a domain, or an option of its preprocessing -> type, name, value, help
    "encoder": (str, "--encoder", "DIR|ID", "The checkpoint: a folder, or owner/name on the hub."),
    "family": (
        str,
        "--family",
        "NAME",
        "The family of a checkpoint without config.json, or the part of a CLIP or SigLIP.",
    ),
    "classes": (int, "--classes", "N", "The N classes with most points, or all that there are."),
    "fewest": (
        int,
        "--fewest",
        "N",
        "Points of a class to train on and to measure on; classes with fewer are left out.",
    ),
    "train": (int, "--train", "N", "At most N points to train on."),
    "validation": (int, "--validation", "N", "At most N points to stop training by."),
    "test": (int, "--test", "N", "At most N points to measure on."),
    "epochs": (int, "--epochs", "N", "At most N epochs of fine-tuning; it stops early."),
    "learning_rate": (float, "--learning-rate", "R", "The largest learning rate of fine-tuning."),
    "seeds": (int, "--seeds", "N", "Fine-tunings, shuffled with seeds 0 to N - 1."),
    "segments": (int, "--segments", "N", "Pairs of a class and layer for the Euclidean score."),
    "k": (int, "--k", "K", "Nearest neighbours in the graph."),
    "metric": (str, "--metric", "|".join(METRICS), "The distance of the graph."),
}
LENGTHS = {  # modality -> its option of preprocessing, likewise
    "speech": ("seconds", float, "--seconds", "S", "Recordings are cut or filled up to S seconds."),
    "text": ("max_length", int, "--tokens", "N", "Texts are cut at N tokens."),
    "images": ("size", int, "--size", "N", "Pictures are scaled to N x N pixels, where the network takes any size."),
    "medical": ("size", int, "--size", "N", "Pictures are scaled to N x N pixels, where the network takes any size."),
}
QUICK: dict[str, Any] = {"variants": False, "pruning": False}
FROM_DATA = "from the data: 95 percent of the training part are no longer"

Data = Annotated[str, option("--data", "DIR", "The data, in the form in which its authors publish it.")]
Quick = Annotated[
    bool, option("--quick", None, "Leave out other ways of measuring, and pruning: about half the time or less.")
]
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


def _run_one(name: str, changes: dict[str, Any], seed: int, out: Path) -> Any:
    from jaxconvex.study.domains import domain

    chosen = domain(name, **{field: value for field, value in changes.items() if value is not None})
    return _run([chosen], seed, {chosen.name: out})[0]


def _run(domains: Sequence[Any], seed: int, folders: dict[str, Path]) -> list[Any]:
    """The studies of the domains, each written to its folder with its page."""
    require_extras()
    require("safetensors", "encoders")
    from jaxconvex.cli import scoring, writing
    from jaxconvex.study.reporting.summary import study_findings, summary_table
    from jaxconvex.study.statements import statements

    studies = []
    for domain in domains:
        with writing.output_folder(folders[domain.name]) as folder:
            study, paths = scoring.study_domain(domain, folder, seed)
            studies.append(study)
            scoring.forget_compiled_code()
            _say_alarms([study])
            say_found(study_findings([study], statements([study])), [summary_table([study])], fold=False)
            say_where(paths, folder)
    return studies


def _say_alarms(studies: Sequence[Any]) -> None:
    """Print in red which fine-tunings failed."""
    from jaxconvex.study.failures import alarm

    for text in filter(None, map(alarm, studies)):
        say(in_red(text, sys.stdout))


def _lengths(name: str) -> dict[str, Any]:
    length_option = LENGTHS.get(DOMAINS[name].modality)
    return {} if length_option is None or name == "images-vit" else {length_option[0]: length_option[1:]}


def _options_of(name: str) -> dict[str, Any]:
    """The options of a domain's command by field, each with the domain's own default in its help."""
    options = {}
    start = DOMAINS[name]._asdict() | dict(DOMAINS[name].options)
    for field, (kind, flag, value, text) in (OPTIONS | _lengths(name)).items():
        known = start.get(field)
        if field in ("seconds", "max_length") and known is None:
            known = FROM_DATA
        shown = "all with enough points" if field == "classes" and known is None else known
        options[field] = Annotated[kind | None, option(flag, value, text + _default(shown))]
    return options


def _default(value: Any) -> str:
    return "" if value is None else f" [default: {value:,}]" if isinstance(value, int) else f" [default: {value}]"


def _command(name: str) -> None:
    own = _options_of(name)

    def run(**given: Any) -> None:
        changes = {field: given[field] for field in ("data", "protocol", *own)}
        lengths = {field: changes.pop(field) for field in _lengths(name)}
        chosen = {field: value for field, value in lengths.items() if value is not None}
        if chosen:
            changes["options"] = {**DOMAINS[name].options, **chosen}
        if given["quick"]:
            changes |= QUICK
        _run_one(name, changes, given["seed"], given["out"] or Path("studies") / name)

    hints = {"data": Data, **own, "protocol": Protocol, "quick": Quick, "seed": Seed, "out": Out}
    declared(run, hints, {**dict.fromkeys(own), "protocol": None, "quick": False, "seed": 0, "out": None})
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
def _all(file: File, only: Only = None, quick: Quick = False, seed: Seed = 0, out: Folder = Path("studies")) -> None:
    from jaxconvex.study.domains import read_domains

    domains = read_domains(file)
    known = [domain.name for domain in domains]
    for name in only or ():
        if name not in known:
            raise ValueError(f"{file} has no domain {name!r}; it has {', '.join(known)}.")
    chosen = [domain for domain in domains if not only or domain.name in only]
    if quick:
        chosen = [domain._replace(**QUICK) for domain in chosen]
    studies = _run(chosen, seed, {domain.name: out / domain.name for domain in chosen})
    if len(studies) > 1:
        _join(studies, out / "report")


@app.command("report", help=REPORT, short_help="One report from the results of several studies.")
def _report(folders: Folders, out: JointOut = Path("studies-report")) -> None:
    from jaxconvex.study.results import read_study

    require_extras()
    # A folder of studies stands for them; what is no study, such as a joint report, is passed over.
    inside = [
        [folder] if (folder / "study.json").exists() else sorted(folder.glob("*/study.json")) for folder in folders
    ]
    studies = [read_study(path) for paths in inside for path in paths]
    if not studies:
        raise ValueError(f"no study.json in {', '.join(map(str, folders))}. Run jaxconvex study NAME first.")
    _join(studies, out)


def _join(studies: Sequence[Any], out: Path) -> None:
    from jaxconvex.cli import writing
    from jaxconvex.study.reporting.pages import write_joint_page
    from jaxconvex.study.reporting.summary import study_findings, summary_table
    from jaxconvex.study.statements import statements

    with writing.output_folder(out) as folder:
        paths = write_joint_page(studies, folder)
        _say_alarms(studies)
        several, claims = len(studies) > 1, statements(studies)
        say_found(study_findings(studies, claims), [summary_table(studies)], fold=False)
        for statement in claims:
            if not several or statement.domain == "all":  # those of the single domains are on their pages
                say(f"- {statement.text}")
        say_where(paths, folder)
        say(f"Read {folder / 'report.html'}.", stream="stderr")
