"""The models that come with the package: small, described, frozen, and usable in every readout."""

import dataclasses

import pytest
import torch

from durotaxis.fusion import MultiPTMFeatureExtractor, PTMConfig, list_ptms, sources
from durotaxis.pretrain import describe_trunk
from durotaxis.pretrain.examples import examine
from durotaxis.pretrain.scenes import random_scenes
from durotaxis.pretrain.worlds import world

FILES = sorted(sources._DATA.glob("*_connectivity.safetensors"))
NAMES = [file.stem for file in FILES]


def test_the_files_are_small_and_known():
    assert FILES
    assert sum(file.stat().st_size for file in FILES) <= 4_000_000
    assert set(NAMES) <= {record.model_type for record in list_ptms()}


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_the_command_that_made_a_file_is_in_it(file):
    about = describe_trunk(file)
    model = file.stem.removesuffix("_connectivity")
    assert about["model"] == model
    assert about["command"] == f"OMP_NUM_THREADS=1 durotaxis pretrain --model {model}"
    assert about["threads"] == 1


@pytest.mark.parametrize("readout", ["pooled", "sampled"])
def test_they_work_frozen_beside_each_other(readout):
    some = examine(random_scenes(world("moat"), 0, 4), "graph", 0)
    extractor = MultiPTMFeatureExtractor(
        8, 8, [PTMConfig(model_type=name) for name in NAMES], context_input_dim=5, readout=readout
    )
    before = extractor.frozen_hash()
    found, attention = extractor(
        some.field,
        torch.ones(4, 5),
        points=some.points,
        batch=some.graph.batch,
        graph=some.graph,
        return_attention=True,
    )
    rows = 4 if readout == "pooled" else len(some.points)
    assert found.shape == (rows, 8)
    assert attention.shape == (rows, len(NAMES))
    found[:, 0].sum().backward()  # all entries of a normalised row sum to 0
    for ptm in extractor.ptms:
        assert ptm.is_frozen
        assert all(parameter.grad is None for parameter in ptm.backbone.parameters())
        assert ptm.projection.weight.grad.abs().sum() > 0
    assert extractor.frozen_hash() == before
    other = dataclasses.replace(some.graph, nodes=some.graph.nodes + 1)
    if "graph_gnn_connectivity" in NAMES:
        changed = extractor(
            some.field, torch.ones(4, 5), points=some.points, batch=some.graph.batch, graph=other
        )
        assert not torch.allclose(changed, found)
