"""The models in models/ are whole, say what they are, and are what the README says of them."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from clip import ModelManifest, read_clip
from service.registry import ModelRegistry, RegistryConfig
from service.session import SessionConfig

ROOT = Path(__file__).parents[1]
NAMES = sorted(folder.name for folder in (ROOT / "models").iterdir())


@pytest.fixture(scope="module")
def registry():
    models = ModelRegistry.load(RegistryConfig(ROOT / "models", SessionConfig(device="cpu")))
    yield models
    for model in models:
        model.close()


def newest(name):
    return max((ROOT / "models" / name).iterdir(), key=lambda folder: int(folder.name))


def test_the_papers_networks_and_the_pretrained_one_are_shipped_and_it_is_the_default(registry):
    assert set(NAMES) == {"convlstm", "lrcn", "lrcn-efficientnet"}
    assert registry.default == "lrcn-efficientnet"


@pytest.mark.parametrize("name", NAMES)
def test_the_service_loads_the_shipped_model(name, registry):
    manifest = registry.get(name).manifest
    assert len(manifest.classes) == 10
    assert manifest.training["split"] == "group"
    assert max(manifest.parity["max_abs_difference"].values()) <= 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_card_and_the_readme_state_the_measured_accuracy_and_cite_the_data(name):
    manifest = ModelManifest.from_json((newest(name) / "manifest.json").read_text())
    content = (newest(name) / "model.onnx").read_bytes()
    assert hashlib.sha256(content).hexdigest() == manifest.sha256
    card = (newest(name) / "card.md").read_text()
    test = manifest.metrics["test"]
    assert f"| test | {test['clips']} | {test['accuracy']:.1%} |" in card
    assert "UCF101: A Dataset of 101 Human Actions" in card
    row = re.search(rf"^\| `{name}` \|.*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert f"{test['accuracy']:.1%} of {test['clips']} clips" in row[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_model_knows_most_clips_of_its_own_classes(name, registry, shared):
    """Clips of every class, most of them from training: far above the 10 % of guessing."""
    model = registry.get(name)
    paths = [path for label in model.manifest.classes for path in pick(shared, label)]
    rows = [model.run([read_clip(path, model.manifest.clip_spec)])[0] for path in paths]
    predicted = [model.manifest.classes[int(np.argmax(row))] for row in rows]
    right = [label == path.parent.name for label, path in zip(predicted, paths, strict=True)]
    assert np.mean(right) >= 0.4


def pick(shared, label):
    return sorted((shared / "clips" / label).glob("*.mp4"))[::20]


def test_the_readmes_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
