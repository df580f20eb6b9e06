"""Reading labelled data in the layouts of their authors, and refusing what is none."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import toy_domains

from jaxconvex.study.datasets import read_dataset, read_movements, take
from jaxconvex.study.datasets.movements import windows
from jaxconvex.study.datasets.pictures import _cut

GENERATOR = np.random.default_rng(0)
REAL = {  # folder, first labeling, points, classes, groups, counts of some classes
    "images": ("fashion_mnist", "class", 70_000, 10, None, {"Ankle boot": 7000, "T-shirt/top": 7000}),
    "speech": ("fsdd/recordings", "digit", 3000, 10, 6, {"0": 300, "9": 300}),
    "text": ("banking77", "category", 13_083, 77, None, {}),
    "activity": ("hmp", "activity", 2413, 14, 16, {}),
    # 4,155 red cells are annotated, two of them by a box without area
    "medical": ("bccd/BCCD", "class", 4886, 3, 364, {"WBC": 372, "Platelets": 361, "RBC": 4153}),
}


def counts(labels):
    return dict(zip(*(array.tolist() for array in np.unique(labels, return_counts=True)), strict=True))


def write_picture(path, pixels):
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def write_sound(path, samples, rate=8000):
    path.parent.mkdir(parents=True, exist_ok=True)
    pytest.importorskip("soundfile").write(path, samples, rate)


def write_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_voc(folder, boxes, pixels=None, name="one"):
    write_picture(folder / "JPEGImages" / f"{name}.png", np.zeros((40, 60, 3)) if pixels is None else pixels)
    objects = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox>"
        "</object>"
        for label, (a, b, c, d) in boxes
    )
    write_text(folder / "Annotations" / f"{name}.xml", f"<annotation>{objects}</annotation>")


# The real data


@pytest.mark.parametrize("modality", REAL)
def test_real_data(data, modality):
    name, labeling, points, classes, groups, some = REAL[modality]
    dataset = read_dataset(modality, toy_domains.real_folder(data, name))
    found = counts(dataset.labelings[labeling])
    assert next(iter(dataset.labelings)) == labeling
    assert len(dataset.inputs) == len(dataset.labelings[labeling]) == points
    assert len(found) == classes and some.items() <= found.items()
    assert (None if dataset.groups is None else len(set(dataset.groups))) == groups


@pytest.mark.long
def test_real_parts_and_counts_in_words(data):
    folders = {modality: toy_domains.real_folder(data, name) for modality, (name, *_) in REAL.items()}
    fashion = read_dataset("images", folders["images"])
    assert counts(fashion.parts) == {"train": 60_000, "test": 10_000}
    assert fashion.inputs.shape == (70_000, 28, 28) and fashion.inputs.dtype == np.uint8
    assert fashion.labelings["class"][0] == "Ankle boot"  # the first training picture, as the authors show it
    assert counts(read_dataset("text", folders["text"]).parts) == {"train": 10_003, "test": 3080}
    movements = read_dataset("activity", folders["activity"])
    assert "839 trials" in movements.source
    assert np.abs(movements.inputs).max() <= 1.5
    # A wrist feels gravity: for the median sample of some activities it is 1 g.
    assert 0.8 < np.median(np.linalg.norm(movements.inputs.reshape(-1, 3), axis=1)) < 1.2
    assert "2 empty boxes" in read_dataset("medical", folders["medical"]).source


# The toy data, in the same formats


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    for module in ("PIL", "soundfile"):
        pytest.importorskip(module)
    folder, generator = tmp_path_factory.mktemp("toys"), np.random.default_rng(0)
    return {
        "images": toy_domains._pictures(folder / "fashion_mnist", 40, generator),
        "speech": toy_domains._recordings(folder / "recordings", 40, generator),
        "text": toy_domains._texts(folder / "banking", 40, generator),
        "activity": toy_domains._movements(folder / "movements", 40, generator),
        "medical": toy_domains._boxes(folder / "blood", 40, generator),
    }


@pytest.mark.parametrize("modality", REAL)
def test_toy_data(toys, modality):
    dataset = read_dataset(modality, toys[modality])
    labels = dataset.labelings[REAL[modality][1]]
    assert len(dataset.inputs) == len(labels)
    assert all(36 <= count <= 42 for count in counts(labels).values()) and len(set(labels)) == 3
    assert str(len(labels)) in dataset.source
    assert (dataset.groups is None) == (modality in ("images", "text"))
    assert (dataset.parts is None) == (modality not in ("images", "text"))


@pytest.mark.long
def test_toy_encoders_load_with_their_preprocessing(toys, tmp_path):
    for module in ("flax", "safetensors", "tokenizers"):
        pytest.importorskip(module)
    from jaxconvex import encoders

    folders = toy_domains.write_toy_encoders(tmp_path)
    for modality, kind in (*toy_domains.NETWORKS.items(), ("images", "vit")):
        dataset = take(read_dataset(modality, toys[modality]), slice(4))
        encoder, preprocess = encoders.load(folders[kind], num_classes=3)
        size = {"size": 24} if kind == "efficientnet-lite0" else {}
        inputs = preprocess(dataset.inputs, **dataset.options, **size)
        assert encoder(*inputs).shape == (4, 3)
        assert kind != "bert" or not (inputs.inputs == 1).any()  # no word of the questions is unknown


# Pictures


def test_idx_files_of_digits(tmp_path):
    pictures = {
        part: GENERATOR.integers(0, 256, size=(n, 2, 3), dtype=np.uint8) for part, n in (("train", 4), ("t10k", 3))
    }
    labels = {"train": np.array([3, 0, 9, 3], np.uint8), "t10k": np.array([0, 3, 3], np.uint8)}
    for part in pictures:
        for kind, array in (("images-idx3", pictures[part]), ("labels-idx1", labels[part])):
            content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
            (tmp_path / f"{part}-{kind}-ubyte").write_bytes(content)
    dataset = read_dataset("images", tmp_path)
    np.testing.assert_array_equal(dataset.inputs, np.concatenate([pictures["train"], pictures["t10k"]]))
    assert dataset.labelings["class"].tolist() == ["3", "0", "9", "3", "0", "3", "3"]
    assert dataset.parts.tolist() == ["train"] * 4 + ["test"] * 3

    (tmp_path / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 1, 1]))
    with pytest.raises(ValueError, match="has 2 labels"):
        read_dataset("images", tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match="lacks idx files of the part train"):
        read_dataset("images", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\x00\x00\x08\x01\x00\x00\x00\x05\x01", "it has 1"), (b"PNG!", "beginning with 0, 0, 8"), (None, "unpacked")],
)
def test_damaged_idx_files(tmp_path, content, message):
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            packed = b"no gzip" if content is None else gzip.compress(content)
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(packed)
    with pytest.raises(ValueError, match=message):
        read_dataset("images", tmp_path)


def test_a_folder_a_class(tmp_path):
    grey, colour = GENERATOR.integers(0, 256, size=(5, 4)), GENERATOR.integers(0, 256, size=(3, 4, 3))
    write_picture(tmp_path / "cat" / "b.png", grey)
    write_picture(tmp_path / "cat" / "a.png", colour)
    write_picture(tmp_path / "dog" / "c.PNG", grey)
    for elsewhere in (".cache/d.png", "cat/deep/deeper/e.png", "f.png"):
        write_picture(tmp_path / elsewhere, grey)
    write_text(tmp_path / "cat" / "notes.txt", "no picture")
    dataset = read_dataset("images", tmp_path)
    assert dataset.labelings["class"].tolist() == ["cat", "cat", "dog"]
    for picture, expected in zip(dataset.inputs, (colour, grey, grey), strict=True):
        np.testing.assert_array_equal(picture, expected)
    assert dataset.groups is None and dataset.parts is None
    taken = take(dataset, np.array([False, True, True]))
    assert [picture.shape for picture in taken.inputs] == [(5, 4), (5, 4)]
    assert taken.labelings["class"].tolist() == ["cat", "dog"]


def test_a_folder_a_class_with_groups_and_parts(tmp_path):
    for part, label, group in (("train", "cat", "ann"), ("train", "dog", "ann"), ("test", "cat", "ben")):
        write_picture(tmp_path / part / label / group / "x.png", np.zeros((2, 2)))
    dataset = read_dataset("medical", tmp_path)
    assert dataset.labelings["class"].tolist() == ["cat", "dog", "cat"]
    assert dataset.groups.tolist() == ["ann", "ann", "ben"]
    assert dataset.parts.tolist() == ["train", "train", "test"]
    write_picture(tmp_path / "test" / "dog" / "x.png", np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"all in LABEL/ or all in LABEL/GROUP/"):
        read_dataset("medical", tmp_path)


def test_damaged_pictures_are_listed_together(tmp_path):
    pytest.importorskip("PIL.Image")
    write_picture(tmp_path / "dog" / "x.webp", np.zeros((4, 4)))
    for name in ("a.png", "b.png"):
        write_text(tmp_path / "cat" / name, "no picture")
    with pytest.raises(ValueError, match=r"(?s)2 files in .*cat.a.png, .*cat.b.png can not be read as a picture"):
        read_dataset("images", tmp_path)


def test_pictures_of_16_bits_are_refused(tmp_path):
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "lung").mkdir()
    image.fromarray(np.full((2, 2), 4000, np.uint16)).save(tmp_path / "lung" / "x.png")
    with pytest.raises(ValueError, match="more than 8 bits"):
        read_dataset("medical", tmp_path)


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((20, 10, 30, 16), (7, 19), (19, 31)),  # 10 by 6, with its margin 12 by 12 around (25, 13)
        ((0, 0, 10, 10), (0, 12), (0, 12)),  # moved in at the corner
        ((48, 10, 60, 20), (8, 22), (46, 60)),  # and at the right edge
        ((55, 35, 70, 45), (34, 40), (54, 60)),  # what sticks out of the picture counts for nothing
        ((0, 0, 50, 40), (0, 40), (0, 60)),  # higher and wider than the picture
    ],
)
def test_a_box_is_cut_as_a_square(box, rows, columns):
    picture = np.arange(40 * 60).reshape(40, 60)
    np.testing.assert_array_equal(_cut(picture, box), picture[slice(*rows), slice(*columns)])


def test_boxes(tmp_path):
    pixels = GENERATOR.integers(0, 256, size=(40, 60, 3))
    inside, empty, outside = (20, 10, 30, 16), (5, 5, 5, 9), (61, 0, 70, 9)
    write_voc(tmp_path, [("red", inside), ("red", empty), ("white", outside)], pixels)
    write_voc(tmp_path, [("white", (0, 0, 10, 10))], name="two")
    dataset = read_dataset("images", tmp_path)
    np.testing.assert_array_equal(dataset.inputs[0], pixels[7:19, 19:31])
    assert dataset.labelings["class"].tolist() == ["red", "white"]
    assert dataset.groups.tolist() == ["one", "two"]
    assert "2 boxes" in dataset.source and "2 empty boxes were left out" in dataset.source


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "document type"),
        ("<annotation><object>", "in XML"),
        ("<annotation><object><name>a</name></object></annotation>", "name and a bndbox"),
        ("<annotation></annotation>", "no box in 1 annotations"),
    ],
)
def test_annotations_that_are_refused(tmp_path, xml, message):
    write_picture(tmp_path / "JPEGImages" / "one.jpg", np.zeros((9, 9, 3)))
    write_text(tmp_path / "Annotations" / "one.xml", xml)
    with pytest.raises(ValueError, match=message):
        read_dataset("medical", tmp_path)


def test_an_annotation_without_picture(tmp_path):
    write_voc(tmp_path, [("red", (0, 0, 5, 5))])
    write_text(tmp_path / "Annotations" / "two.xml", "<annotation></annotation>")
    with pytest.raises(ValueError, match=r"no picture two\.jpg"):
        read_dataset("medical", tmp_path)


# Recordings


def test_recordings_in_class_folders(tmp_path):
    both = GENERATOR.uniform(-0.5, 0.5, size=(50, 2))
    write_sound(tmp_path / "yes" / "ann" / "x.wav", both)
    write_sound(tmp_path / "no" / "ben" / "y.flac", both[:20, 0])
    dataset = read_dataset("speech", tmp_path)
    assert dataset.labelings["class"].tolist() == ["no", "yes"] and dataset.groups.tolist() == ["ben", "ann"]
    assert dataset.options == {"rate": 8000}
    assert [len(recording) for recording in dataset.inputs] == [20, 50] and dataset.inputs[0].dtype == np.float32
    np.testing.assert_allclose(dataset.inputs[1], both.mean(axis=1), atol=2**-14)


def test_recordings_of_speakers_with_odd_names(tmp_path):
    write_sound(tmp_path / "7_anna_maria_12.wav", np.ones(5))
    dataset = read_dataset("speech", tmp_path)
    assert {name: labels[0] for name, labels in dataset.labelings.items()} == {"digit": "7", "speaker": "anna_maria"}


def test_recordings_that_are_refused(tmp_path):
    write_sound(tmp_path / "a" / "x.wav", np.ones(5))
    write_sound(tmp_path / "b" / "y.wav", np.ones(5), rate=16_000)
    with pytest.raises(ValueError, match=r"y\.wav has 16000 samples a second"):
        read_dataset("speech", tmp_path)
    write_sound(tmp_path / "b" / "y.wav", np.ones(0))
    with pytest.raises(ValueError, match=r"y\.wav holds no samples"):
        read_dataset("speech", tmp_path)
    write_text(tmp_path / "b" / "y.wav", "no sound")
    with pytest.raises(ValueError, match=r"y\.wav can not be read"):
        read_dataset("speech", tmp_path)


@pytest.mark.parametrize("suffix", ["ogg", "mp3", "aiff", "FLAC"])
def test_every_format_that_soundfile_knows(tmp_path, suffix):
    tone = 0.4 * np.sin(np.arange(4000) / 5)
    for label in ("a", "b"):
        write_sound(tmp_path / label / f"x.{suffix}", tone)
        write_text(tmp_path / label / "x.txt", "what was said")
    dataset = read_dataset("speech", tmp_path)
    assert len(dataset.inputs) == 2 and np.corrcoef(dataset.inputs[0][500:3500], tone[500:3500])[0, 1] > 0.9
    assert dataset.notes == ("Not read: 2 files (2 .txt).",)


def test_files_with_problems_are_listed_together(tmp_path):
    for number in range(8):
        write_sound(tmp_path / "a" / f"{number}.wav", np.ones(5 * (number > 6)))
    write_text(tmp_path / "b" / "y.wav", "no sound")
    with pytest.raises(ValueError) as refusal:
        read_dataset("speech", tmp_path)
    lines = str(refusal.value).splitlines()
    assert lines[0].startswith("8 files in") and len(lines) == 3
    assert "4.wav and 2 more hold no samples" in lines[1] and "y.wav can not be read" in lines[2]


# Texts


def test_a_column_of_groups(tmp_path):
    write_text(tmp_path / "mine.csv", "text,label,group\nx,a,ann\ny,b,ben\n")
    assert read_dataset("text", tmp_path).groups.tolist() == ["ann", "ben"]
    write_text(tmp_path / "mine.csv", "text,label,group\nx,a,ann\ny,b,\n,b,ben\n")
    with pytest.raises(ValueError, match=r"no text or no label or no group at lines 3, 4\. Remove those rows"):
        read_dataset("text", tmp_path)


def test_one_csv_file_by_its_path_or_that_of_its_folder(tmp_path):
    write_text(tmp_path / "mine.csv", '\ufefflabel,text,id\ngood,"a, b",1\nbad,c,2\n')
    for path in (tmp_path, tmp_path / "mine.csv"):
        dataset = read_dataset("text", path)
        assert dataset.inputs == ["a, b", "c"] and dataset.parts is None
        assert {name: labels.tolist() for name, labels in dataset.labelings.items()} == {"label": ["good", "bad"]}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train.csv": "sentence,label\na,b\n"}, "got sentence, label"),
        ({"train.csv": "text,label\na,b\n,c\n"}, "no text or no label at line 3"),
        ({"train.csv": 'text,label\n"a\nb",b\na,b,c\n'}, "line 4, has 3 fields"),
        ({"train.csv": "text,label\na,b\na\n"}, "line 3, has 1 fields"),
        ({"train.csv": "text,label,label\na,b,c\n"}, "once among them"),
        ({"train.csv": "text,label\na,b\n", "test.csv": "text,category\na,b\n"}, "alike; got category, label"),
        ({"a.csv": "text,label\na,b\n", "b.csv": "text,label\na,b\n"}, "must have one of these layouts"),
    ],
)
def test_texts_that_are_refused(tmp_path, files, message):
    for name, text in files.items():
        write_text(tmp_path / name, text)
    with pytest.raises(ValueError, match=message):
        read_dataset("text", tmp_path)


# Movements


def test_windows_share_no_samples_and_the_last_sample_is_held():
    trials = [np.arange(14.0)[:, None] + [0, 100, 200], np.full((3, 3), 7.0)]
    trials[1][2] = 9
    cut, trial = windows(trials, rate=4, seconds=1)
    assert trial.tolist() == [0, 0, 0, 1]
    for i in range(3):
        np.testing.assert_array_equal(cut[i], trials[0][4 * i : 4 * i + 4])
    assert cut[3, :, 0].tolist() == [7, 7, 9, 9]
    with pytest.raises(ValueError, match="two samples or more"):
        windows(trials, rate=4, seconds=0.3)


def test_hmp_counts_become_g_and_models_are_left_out(tmp_path):
    for folder, volunteer in (("Walk", "f1"), ("Climb_stairs", "m2"), ("Walk_MODEL", "f1")):
        write_text(tmp_path / folder / f"Accelerometer-2011-03-24-09-51-07-walk-{volunteer}.txt", "0 63 21\n" * 3)
    dataset = read_movements(tmp_path, seconds=2.0)
    assert dataset.inputs.shape == (2, 64, 3) and dataset.options == {"rate": 32.0}
    np.testing.assert_allclose(dataset.inputs[0, -1], [-1.5, 1.5, -0.5], atol=1e-6)
    assert dataset.labelings["activity"].tolist() == ["Climb_stairs", "Walk"]
    assert dataset.labelings["volunteer"].tolist() == dataset.groups.tolist() == ["m2", "f1"]


def test_movements_in_class_folders(tmp_path):
    write_text(tmp_path / "sit" / "a.csv", "x,y,z\n" + "0,0,1e0\n" * 25)
    write_text(tmp_path / "run" / "b.csv", "-1,0,1\n" * 5)
    write_text(tmp_path / "run" / "c.csv", "-1,0,1\n" * 5)
    write_text(tmp_path / "rate.txt", "10\n")
    dataset = read_movements(tmp_path, seconds=1.0)
    assert dataset.options == {"rate": 10.0} and dataset.inputs.shape == (4, 10, 3)
    assert dataset.labelings["class"].tolist() == ["run"] * 2 + ["sit"] * 2
    assert len(set(dataset.groups.tolist())) == 3  # windows of one file stay together
    assert "4 windows of 1 s from 3 trials" in dataset.source
    write_text(tmp_path / "rate.txt", "fast")
    with pytest.raises(ValueError, match="one number above 0"):
        read_movements(tmp_path)
    (tmp_path / "rate.txt").unlink()
    assert read_movements(tmp_path).options == {"rate": 30.0}
    write_text(tmp_path / "run" / "b.csv", "-1,0\n" * 5)
    with pytest.raises(ValueError, match="three finite numbers a line"):
        read_movements(tmp_path)
    write_text(tmp_path / "run" / "b.csv", "-1,0,1\n2,one,3\n")
    with pytest.raises(ValueError, match=r"b\.csv must hold three numbers a line"):
        read_movements(tmp_path)


# What is no data


@pytest.mark.parametrize(
    ("modality", "layouts"),
    [
        ("images", ("MNIST", "Pascal VOC", "a folder a class")),
        ("speech", ("Free Spoken Digit Dataset", "a folder a class")),
        ("text", ("train.csv", "single csv file")),
        ("activity", ("HMP", "a folder a class")),
    ],
)
def test_other_folders_are_refused_with_all_layouts(tmp_path, modality, layouts):
    write_text(tmp_path / "stray.bin", "?")
    with pytest.raises(ValueError) as refusal:
        read_dataset(modality, tmp_path)
    for layout in (*layouts, "stray.bin"):
        assert layout in str(refusal.value)
    with pytest.raises(ValueError, match="there is none at"):
        read_dataset(modality, tmp_path / "nowhere")


def test_other_modalities_are_refused(tmp_path):
    with pytest.raises(ValueError, match="modality must be one of 'images', 'speech'"):
        read_dataset("video", tmp_path)
