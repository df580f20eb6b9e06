"""The examples in study/README.md."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest
from documents import PACKAGE, block
from toy_domains import write_toy_encoders

from jaxconvex.study import datasets, experiment
from jaxconvex.study.domains import read_domains
from jaxconvex.study.material import prepare

README = PACKAGE / "study" / "README.md"


def test_the_file_of_domains_is_read(tmp_path):
    (tmp_path / "studies.toml").write_text(block(README, "toml"))
    (made,) = read_domains(tmp_path / "studies.toml")
    assert (made.name, made.modality, made.classes, made.options) == ("birds", "speech", 12, {"seconds": 3.0})


@pytest.mark.long
def test_a_domain_of_another_kind(tmp_path, monkeypatch):
    pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "READERS", dict(datasets.READERS))
    Path("bert").symlink_to(write_toy_encoders(tmp_path / "encoders")["bert"])
    Path("poems").mkdir()
    lines = [f"poet {i // 4 % 3}\tpoem {i // 4}\twhere is card {i}" for i in range(600)]
    Path("poems/poems.tsv").write_text("\n".join(lines))
    studied = []
    monkeypatch.setattr(experiment, "run_study", lambda *arguments: studied.append(arguments))
    exec(block(README), {})
    ((made, out),) = studied
    assert (made.name, out) == ("poems", "studies/poems")
    made = made._replace(options={"length": 8, "max_length": 8})  # the toy network takes no more
    material = prepare(made, jax.random.key(0))
    assert material.classes == ("poet 0", "poet 1", "poet 2")
    assert len(material.train.classes) > 100
