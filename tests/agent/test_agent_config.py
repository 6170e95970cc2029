import pytest
from pydantic import ValidationError

from durotaxis.agent import ActorCriticConfig, EncoderConfig, ImageConfig


def read(**values):
    return ActorCriticConfig.model_validate(values)


def test_the_guides_block_is_valid():
    config = read(
        use_wsa=False,
        wsa_config={
            "embedding_dim": 256,
            "context_dim": 128,
            "ptms": [
                {"model_type": "resnet18_imagenet", "freeze": True},
                {"model_type": "graph_cnn", "freeze": False},
                {"model_type": "resnet18_random", "freeze": False},
            ],
            "attention_temperature": 1.0,
        },
    )
    assert config == ActorCriticConfig()
    assert config.notes == ()


def test_other_spellings_are_read_and_noted():
    config = read(use_wsa_enhancement=True, wsa_embedding_dim=64, wsa_num_ptms=2)
    assert config.use_wsa
    assert config.wsa_config.embedding_dim == 64
    assert [ptm.model_type for ptm in config.wsa_config.ptms] == ["resnet18_imagenet", "graph_cnn"]
    assert len(config.notes) == 3
    for note, key in zip(
        config.notes, ("use_wsa", "wsa_config.embedding_dim", "wsa_config.ptms"), strict=True
    ):
        assert key in note
    assert read(**config.model_dump()).notes == ()


def test_other_spellings_join_what_is_said_beside_them():
    config = read(wsa_embedding_dim=64, wsa_config={"context_dim": 8, "embedding_dim": 64})
    assert (config.wsa_config.embedding_dim, config.wsa_config.context_dim) == (64, 8)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"use_wsa_enhancement": True, "use_wsa": False}, "different things"),
        ({"wsa_embedding_dim": 8, "wsa_config": {"embedding_dim": 9}}, "different things"),
        ({"wsa_num_ptms": 4}, "between 1 and 3"),
        ({"wsa_num_ptms": 0}, "between 1 and 3"),
        ({"wsa_num_ptms": True}, "between 1 and 3"),
        ({"wsa_embedding_dim": 0}, "greater than or equal to 1"),
        ({"wsa_config": {"attention_temperature": 0}}, "greater than or equal to 0.001"),
        ({"backbone": "resnet18_randon"}, "resnet18_random"),
        ({"use_was": True}, "Extra inputs"),
        ({"image": {"scope": "node"}}, "needs `source: tokens`"),
    ],
)
def test_what_does_not_hold_is_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        read(**values)


def test_a_backbone_is_a_name_or_a_section():
    assert read(backbone="graph_cnn").backbone == read(backbone={"model_type": "graph_cnn"}).backbone
    assert not read(backbone={"model_type": "graph_cnn", "freeze": False}).backbone.freeze


def test_encoder_widths():
    assert EncoderConfig(simplicial=False).simplicial == "off"
    assert EncoderConfig(out_dim=60, simplicial="off").out_dim == 60
    with pytest.raises(ValidationError, match="divisible by simplicial"):
        EncoderConfig(out_dim=60)
    with pytest.raises(ValidationError, match="every group would be a number"):
        EncoderConfig(out_dim=16)
    with pytest.raises(ValidationError, match="divisible by num_heads"):
        EncoderConfig(hidden_dim=30)


def test_scope_node_reads_tokens_pooled():
    assert ImageConfig(scope="node", source="tokens", readout="pooled").scope == "node"
    with pytest.raises(ValidationError, match="scope `node`"):
        ImageConfig(scope="node", source="tokens", readout="sampled")


def test_an_override_in_another_spelling_replaces_what_the_file_says(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("actor_critic: {use_wsa: false, wsa_config: {embedding_dim: 64}}\n")
    from durotaxis.core.config import load_sections

    overrides = ["actor_critic.use_wsa_enhancement=true", "actor_critic.wsa_embedding_dim=32"]
    config = load_sections(path, {"actor_critic": ActorCriticConfig}, overrides)["actor_critic"]
    assert (config.use_wsa, config.wsa_config.embedding_dim) == (True, 32)
    assert len(config.notes) == 2
