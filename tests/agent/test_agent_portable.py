"""An exported agent is the agent: same outputs, from its file alone."""

import json

import pytest
import torch
from agent_cases import SMALL_PTMS, make_observation, make_policy
from safetensors.torch import load_file, save_file

from durotaxis.agent import HybridActorCritic, agent_to_bytes, load_agent, read_about
from durotaxis.core.errors import UserError
from durotaxis.fusion import MultiPTMFeatureExtractor, PTMConfig, build_ptm, calibrate
from durotaxis.fusion.backbones.resnet import ResNet

CONNECTIVITY = {"model_type": "graph_gnn_connectivity"}
AGENTS = {
    "baseline": {"use_wsa": False},
    "wsa": {"use_wsa": True},
    "a graph model": {"wsa_config": {"ptms": [SMALL_PTMS[1], CONNECTIVITY]}},
    "features": {"wsa_config": {"integration": "features", "ptms": SMALL_PTMS}},
    "heads and temperature": {
        "wsa_config": {
            "ptms": SMALL_PTMS,
            "num_heads": 2,
            "attention_temperature": {"start": 2.0, "end": 0.5, "steps": 100},
        }
    },
    "values per term": {"value_heads": "terms", "reward_terms": ("a", "b", "c")},
}


def outputs(agent: HybridActorCritic, observation) -> list[torch.Tensor]:
    with torch.no_grad():
        distribution, value = agent(observation)
    return [distribution.kind_probs, distribution.alpha, distribution.beta, value]


def stir(agent: HybridActorCritic) -> HybridActorCritic:
    """Weights, statistics and whatever is scheduled, away from where they started."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, value in agent.state_dict().items():
            if value.is_floating_point() and not name.endswith(".gate"):
                value.add_(torch.rand_like(value) * 0.1)
    agent.begin_iteration(60)
    return agent


@pytest.mark.parametrize("name", AGENTS)
def test_outputs_are_equal_to_the_bit(name, tmp_path):
    agent = stir(make_policy(**AGENTS[name]))
    path = tmp_path / "policy.safetensors"
    path.write_bytes(agent_to_bytes(agent, {"env": {"scenario": "moat"}}))
    torch.manual_seed(99)  # whatever is drawn on the way must not matter
    again = load_agent(path)
    observation = make_observation([5, 9, 1], 12)
    for one, other in zip(outputs(agent, observation), outputs(again, observation), strict=True):
        assert torch.equal(one, other)
    assert again.ptm_names == agent.ptm_names
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert read_about(path) == {"env": {"scenario": "moat"}}


def test_pre_trained_weights_travel_in_the_file(tmp_path):
    """Exported, the file that a model was read from may vanish; its input statistics stay its own."""
    weights = tmp_path / "weights.safetensors"
    torch.manual_seed(0)
    save_file(
        {k: torch.rand_like(v) if v.is_floating_point() else v for k, v in ResNet(18).state_dict().items()},
        weights,
    )
    ptms = [
        {
            "model_type": "resnet18_imagenet",
            "weights": str(weights),
            "tap": "layer1",
            "upsample": 48,
            "name": "eye",
        },
        {"model_type": "resnet18_imagenet", "weights": str(weights), "tap": "layer1", "freeze": False},
        SMALL_PTMS[1],
    ]
    agent = make_policy(wsa_config={"ptms": ptms})
    path = tmp_path / "policy.safetensors"
    path.write_bytes(agent_to_bytes(agent, {}))
    weights.unlink()
    again = load_agent(path)
    observation = make_observation([4, 6], 8)
    for one, other in zip(outputs(agent, observation), outputs(again, observation), strict=True):
        assert torch.equal(one, other)
    assert again.ptm_names == ["eye", "resnet18_imagenet", "graph_cnn"]
    record = again.actor.extractor.ptms[0].record
    assert record == agent.actor.extractor.ptms[0].record
    assert record.mean == pytest.approx((0.485, 0.456, 0.406))


def test_a_twin_has_the_same_architecture():
    """What `load_agent` counts on: the twin's state has the same names and shapes."""
    for packaged in ("graph_gnn_connectivity",):
        twin = build_ptm(PTMConfig(model_type=packaged.removesuffix("_connectivity")), 8)
        own = build_ptm(PTMConfig(model_type=packaged), 8)
        shapes = [{k: v.shape for k, v in each.state_dict().items()} for each in (own, twin)]
        assert shapes[0] == shapes[1]


def test_a_calibrated_random_model_keeps_its_statistics(tmp_path):
    agent = make_policy()
    extractor: MultiPTMFeatureExtractor = agent.actor.extractor
    calibrate(extractor, torch.rand(512, 3, 24, 24, generator=torch.Generator().manual_seed(1)))
    path = tmp_path / "policy.safetensors"
    path.write_bytes(agent_to_bytes(agent, {}))
    assert load_agent(path).actor.extractor.needs_calibration() == []
    observation = make_observation([4], 8)
    for one, other in zip(outputs(agent, observation), outputs(load_agent(path), observation), strict=True):
        assert torch.equal(one, other)


def altered(path, **changes) -> None:
    """The file with its header changed."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["durotaxis"])
    save_file(load_file(path), path, {"durotaxis": json.dumps({**header, **changes})})


def test_what_is_no_exported_agent_is_refused(tmp_path):
    path = tmp_path / "policy.safetensors"
    with pytest.raises(UserError, match="cannot be read"):
        load_agent(path)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read"):
        load_agent(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="is no exported agent"):
        load_agent(path)
    path.write_bytes(agent_to_bytes(make_policy(), {}))
    altered(path, format=9)
    with pytest.raises(UserError, match="is of format 9, this version reads 1"):
        load_agent(path)
    other = make_policy()
    path.write_bytes(agent_to_bytes(other, {}))
    altered(path, encoder={**other.encoder.config.model_dump(mode="json"), "num_layers": 5})
    with pytest.raises(UserError, match="do not fit its own header"):
        load_agent(path)
    with pytest.raises(UserError, match="must be ready for JSON"):
        agent_to_bytes(other, {"a": object()})
