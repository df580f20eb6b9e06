"""Small learnable data in the formats of the five domains' authors, with tiny networks to start from."""

from __future__ import annotations

import csv
import gzip
import json
import string
from pathlib import Path

import numpy as np
import pytest

__all__ = ["real_folder", "write_toy_domains", "write_toy_encoders"]

CONFIGS = {
    "efficientnet-lite0": {
        "stem_width": 8,
        "stages": [[1, 3, 1, 1, 8], [1, 3, 2, 2, 12], [1, 3, 2, 2, 16]],
        "head_width": 24,
    },
    "whisper": {
        "num_mel_bins": 80,
        "d_model": 16,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "max_source_positions": 20,  # 0.4 s
        "classifier_proj_size": 16,
    },
    "bert": {
        "max_position_embeddings": 16,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    },
    "vit": {
        "image_size": 12,
        "patch_size": 4,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    },
    "resnet1d": {"epoch_len": 5, "layers": [[8, 5, 1, 5, 5, 1], [8, 5, 1, 5, 5, 1], [16, 5, 0, 5, 3, 1]]},
}
NETWORKS = {
    "images": "efficientnet-lite0",
    "speech": "whisper",
    "text": "bert",
    "activity": "resnet1d",
    "medical": "efficientnet-lite0",
}
QUESTIONS = {
    "card_arrival": (["where", "when", "how soon"], ["is my new card", "does the card arrive", "will it be delivered"]),
    "exchange_rate": (
        ["what", "why", "how high"],
        ["is the exchange rate", "are the rates for euros", "do rates change"],
    ),
    "lost_card": (["help", "please", "what now"], ["i lost my card", "my card was stolen", "block the missing card"]),
}
ENDINGS = ["", "today", "please", "now", "in this app", "for me", "again", "thanks"]


def write_toy_domains(folder, *, per_class: int = 40, seed: int = 0) -> dict[str, tuple[Path, Path | None]]:
    """Returns for each domain the folder of its data and that of a network with random weights.

    Three classes each, of about `per_class` points. A second network for pictures of 12 x 12 stands beside the others,
    in encoders/vit.
    """
    folder, generator = Path(folder), np.random.default_rng(seed)
    data = {
        "images": _pictures(folder / "fashion_mnist", per_class, generator),
        "speech": _recordings(folder / "recordings", per_class, generator),
        "text": _texts(folder / "banking", per_class, generator),
        "activity": _movements(folder / "movements", per_class, generator),
        "medical": _boxes(folder / "blood", per_class, generator),
    }
    encoders = write_toy_encoders(folder / "encoders", seed=seed)
    return {domain: (path, encoders[NETWORKS[domain]]) for domain, path in data.items()}


def write_toy_encoders(folder, *, seed: int = 0) -> dict[str, Path]:
    """Returns the folder of a tiny network of each family, by name; its weights are random."""
    from flax import nnx

    from jaxconvex import encoders

    paths = {}
    for i, (kind, config) in enumerate(CONFIGS.items()):
        path = paths[kind] = Path(folder) / kind
        path.mkdir(parents=True)
        if kind == "bert":
            config = config | {"vocab_size": _write_tokenizer(path)}
        encoders.save(encoders.initialise({"model_type": kind} | config, rngs=nnx.Rngs(seed + i)), path)
    return paths


def real_folder(data: Path, name: str) -> Path:
    """Returns the folder of a real data set, or skips the test. It may lie in a folder data/, as models lie in models/."""
    folder = next((path for path in (data / "data" / name, data / name) if path.is_dir()), None)
    return folder or pytest.skip(f"{data} has no folder {name}")


def _write_tokenizer(folder: Path) -> int:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    phrases = [words for both in QUESTIONS.values() for half in both for words in half] + ENDINGS
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({word for phrase in phrases for word in phrase.split()}), "?"]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "model_max_length": 16})
    )
    return len(words)


def _pictures(folder: Path, per_class: int, generator) -> Path:
    """Upright bars, level bars and a disc, 12 x 12, as idx files of a train and a test part."""
    folder.mkdir(parents=True)
    line, (row, column) = np.arange(12), np.mgrid[:12, :12]
    for prefix, share in (("train", 0.65), ("t10k", 0.35)):
        count = max(1, round(per_class * share))
        labels = generator.permutation(np.repeat(np.arange(3), count)).astype(np.uint8)
        pictures = np.empty((len(labels), 12, 12))
        for i, label in enumerate(labels):
            bars = np.sin(line * 1.6 + generator.uniform(0, 6)) > 0
            middle = generator.uniform(4, 7, size=2)
            disc = np.hypot(row - middle[0], column - middle[1]) < generator.uniform(3, 4)
            pictures[i] = (np.tile(bars, (12, 1)), np.tile(bars[:, None], 12), disc)[label]
        pictures = np.clip(200 * pictures + generator.normal(25, 15, size=pictures.shape), 0, 255).astype(np.uint8)
        for kind, array in (("images-idx3", pictures), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (folder / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    return folder


def _boxes(folder: Path, per_class: int, generator) -> Path:
    """Two discs of each of three kinds on a picture of 96 x 96, with their boxes."""
    from PIL import Image, ImageDraw

    kinds = {"RBC": (12, (200, 90, 90)), "WBC": (15, (110, 60, 160)), "Platelets": (6, (150, 120, 180))}
    for name in ("Annotations", "JPEGImages"):
        (folder / name).mkdir(parents=True)
    for number in range(-(-per_class // 2)):
        picture = Image.new("RGB", (96, 96), (235, 215, 205))
        draw, objects = ImageDraw.Draw(picture), []
        cells = generator.permutation(9)[:6]
        for cell, name in zip(cells, [*kinds, *kinds], strict=True):
            size, colour = kinds[name]
            radius = size * generator.uniform(0.85, 1)
            x, y = 16 + 32 * (cell % 3), 16 + 32 * (cell // 3)
            box = [round(float(value)) for value in (x - radius, y - radius, x + radius, y + radius)]
            draw.ellipse(box, fill=tuple(int(value + generator.integers(-15, 16)) for value in colour))
            edges = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
            inner = "".join(f"<{edge}>{value}</{edge}>" for edge, value in edges)
            objects.append(f"<object><name>{name}</name><bndbox>{inner}</bndbox></object>")
        picture.save(folder / "JPEGImages" / f"BloodImage_{number:05}.jpg", quality=95)
        text = f"<annotation>{''.join(objects)}</annotation>"
        (folder / "Annotations" / f"BloodImage_{number:05}.xml").write_text(text)
    return folder


def _recordings(folder: Path, per_class: int, generator) -> Path:
    """Tones that rise, fall and alternate, by four speakers of different pitch, 0.3 s at 8 kHz."""
    import soundfile

    folder.mkdir(parents=True)
    time = np.arange(2400) / 8000
    courses = (time / 0.3, 1 - time / 0.3, (np.sin(40 * time) > 0).astype(float))
    for digit, course in enumerate(courses):
        for speaker, pitch in (("ann", 300), ("ben", 360), ("cem", 430), ("dora", 520)):
            for index in range(max(1, round(per_class / 4))):
                frequency = pitch * (1 + generator.normal(0, 0.03)) * (1 + 1.5 * course)
                tone = np.sin(2 * np.pi * np.cumsum(frequency) / 8000) * np.hanning(len(time))
                tone = 0.5 * tone + generator.normal(0, 0.01, size=len(time))
                soundfile.write(folder / f"{digit}_{speaker}_{index}.wav", tone, 8000)
    return folder


def _texts(folder: Path, per_class: int, generator) -> Path:
    """Questions of three intents, put together from halves, in train.csv and test.csv."""
    folder.mkdir(parents=True)
    for part, share in (("train", 0.65), ("test", 0.35)):
        rows = []
        for intent, halves in QUESTIONS.items():
            for _ in range(max(1, round(per_class * share))):
                words = " ".join(str(generator.choice(choices)) for choices in (*halves, ENDINGS))
                rows.append((string.capwords(words, ". ").strip() + "?", intent))
        with (folder / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "category"), *(rows[i] for i in generator.permutation(len(rows)))])
    return folder


def _movements(folder: Path, per_class: int, generator) -> Path:
    """Rest, slow and fast movement by six volunteers, 32 samples a second, in the integers of HMP."""
    kinds = {"Rest": (0.0, 0.0), "Drink_glass": (0.4, 0.5), "Walk": (2.0, 0.4)}  # times a second, size in g
    for activity, (frequency, size) in kinds.items():
        (folder / activity).mkdir(parents=True)
        for volunteer in ("f1", "f2", "f3", "m1", "m2", "m3"):
            gravity = np.array([0.0, -0.9, 0.3]) + generator.normal(0, 0.05, size=3)
            for trial in range(max(1, round(per_class / 12))):  # of two windows each
                time = np.arange(320 + int(generator.integers(0, 70))) / 32
                phase = (
                    2 * np.pi * (frequency * generator.uniform(0.9, 1.1) * time[:, None] + generator.uniform(size=3))
                )
                signal = gravity + size * np.sin(phase) + generator.normal(0, 0.04, size=(len(time), 3))
                values = np.clip(np.round((signal + 1.5) * 63 / 3), 0, 63).astype(int)
                name = f"Accelerometer-2011-03-24-10-{trial:02}-00-{activity.lower()}-{volunteer}.txt"
                np.savetxt(folder / activity / name, values, fmt="%d")
    return folder
