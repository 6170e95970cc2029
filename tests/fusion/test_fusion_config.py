"""Configuration of models and fusion: names, seeds, refusals; and what importing costs."""

import json
import subprocess
import sys

import pytest
from pydantic import ValidationError

from durotaxis.core.errors import UserError
from durotaxis.fusion import MultiPTMFeatureExtractor, PTMConfig, WSAConfig, list_ptms


def ptm(model_type, **options):
    return {"model_type": model_type, **options}


def test_names_are_unique_and_seeds_differ():
    config = WSAConfig(
        ptms=[
            ptm("resnet18_random"),
            ptm("graph_cnn"),
            ptm("resnet18_random", freeze=False),
            ptm("resnet18_random", seed=1),
            ptm("resnet34_random"),
        ]
    )
    names = [entry.name for entry in config.ptms]
    assert names == [
        "resnet18_random",
        "graph_cnn",
        "resnet18_random_2",
        "resnet18_random_3",
        "resnet34_random",
    ]
    assert [entry.seed for entry in config.ptms] == [0, None, 2, 1, 0]


def test_given_names_are_kept_and_avoided():
    config = WSAConfig(
        ptms=[ptm("graph_cnn"), ptm("graph_cnn", name="graph_cnn"), ptm("graph_cnn", name="eye")]
    )
    assert [entry.name for entry in config.ptms] == ["graph_cnn_2", "graph_cnn", "eye"]


def test_a_resolved_config_survives_its_own_dump():
    config = WSAConfig(ptms=[ptm("resnet18_random"), ptm("resnet18_random")])
    assert WSAConfig(**json.loads(config.model_dump_json())) == config


def test_default_is_the_guides_trio():
    trio = [(entry.model_type, entry.freeze) for entry in WSAConfig().ptms]
    assert trio == [("resnet18_imagenet", True), ("graph_cnn", False), ("resnet18_random", False)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ptms": [ptm("resnet18_imagnet")]}, "did you mean 'resnet18_imagenet'"),
        ({"ptms": [ptm("graphcnn")]}, "did you mean 'graph_cnn'"),
        ({"ptms": [ptm("vit")]}, "unknown model_type 'vit'.*known are graph_cnn"),
        ({"ptms": []}, "ptms"),
        ({"ptms": [ptm("graph_cnn", name="a"), ptm("graph_cnn", name="a")]}, "two PTMs are named 'a'"),
        ({"ptms": [ptm("graph_cnn", name="a b")]}, "name"),
        ({"ptms": [ptm("graph_cnn", tap="layer2")]}, "no tap 'layer2'; it has block1, block2, block3"),
        ({"ptms": [ptm("graph_cnn", weights="w.pth")]}, "does not read 'weights'"),
        ({"ptms": [ptm("resnet18_imagenet", seed=1)]}, "does not read 'seed'"),
        ({"ptms": [ptm("resnet18_imagenet", sha256="xyz")]}, "sha256"),
        ({"ptms": [ptm("graph_cnn", seed=-1)]}, "seed"),
        ({"ptms": [ptm("graph_cnn", upsample=2)]}, "upsample"),
        ({"ptms": [ptm("graph_cnn", frozen=True)]}, "frozen"),
        ({"embedding_dim": 0}, "embedding_dim"),
        ({"context_dim": 0}, "context_dim"),
        ({"attention_temperature": 0}, "attention_temperature"),
        ({"attention_temperature": float("nan")}, "attention_temperature"),
        ({"embedding_dim": 10, "num_heads": 4}, "10 is not divisible by num_heads 4"),
        ({"fusion": "sum"}, "fusion"),
        ({"wsa_embedding_dim": 3}, "wsa_embedding_dim"),
    ],
)
def test_wrong_values_are_refused(values, message):
    with pytest.raises(ValidationError, match=f"(?s){message}"):
        WSAConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"embedding_dim": 0}, "embedding_dim: "),
        ({"temperature": 0.0}, "attention_temperature: "),
        ({"ptms": [ptm("grph_cnn")]}, r"ptms.0.model_type: unknown .* did you mean 'graph_cnn'"),
        ({"ptms": [ptm("graph_cnn")], "readout": "mean"}, "readout 'mean'"),
        ({"ptms": [ptm("graph_cnn")], "context": "node"}, "context 'node'"),
        ({"ptms": [ptm("graph_cnn")], "context_input_dim": 0}, "context_input_dim 0"),
    ],
)
def test_the_extractor_refuses_them_in_one_line(values, message):
    with pytest.raises((UserError, TypeError), match=message) as caught:
        MultiPTMFeatureExtractor(**values)
    assert "\n" not in str(caught.value)


def test_list_of_types_is_complete_and_serialisable():
    records = {record.model_type: record for record in list_ptms()}
    depths = (18, 34, 50)
    expected = {"graph_cnn"} | {f"resnet{d}_{kind}" for d in depths for kind in ("imagenet", "random")}
    assert expected <= set(records)
    assert records["resnet50_imagenet"].licence == "BSD-3-Clause"
    json.dumps([record.to_dict() for record in records.values()])


def test_registering_a_taken_name_is_refused():
    from durotaxis.fusion import register_ptm
    from durotaxis.fusion.registry import ptm_type

    with pytest.raises(UserError, match="already registered"):
        register_ptm(ptm_type("graph_cnn"))


IMPORTS = """
import sys
from durotaxis.fusion.config import WSAConfig
WSAConfig()
assert "torch" not in sys.modules
from durotaxis import fusion
for name in fusion.__all__:
    getattr(fusion, name)
fusion.MultiPTMFeatureExtractor(ptms=[fusion.PTMConfig(model_type="resnet18_random")])
assert not {"transformers", "huggingface_hub", "torch_geometric"} & set(sys.modules)
"""


def test_config_needs_no_torch_and_the_layer_no_transformers():
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_ptm_config_is_frozen():
    with pytest.raises(ValidationError):
        PTMConfig(model_type="graph_cnn").seed = 3
