"""Counter-based draws against scipy's distributions, and against each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import beta as scipy_beta
from scipy.stats import chi2, kstest
from scipy.stats import gamma as scipy_gamma

from durotaxis.core.randomness import Purpose, beta, gamma, hash_keys, normal, uniform

NUM = 40_000
KEYS = torch.arange(NUM)


def same(draws, name, *args):
    assert kstest(draws.double().numpy(), name, args).pvalue > 1e-3


def splitmix(*keys):
    """The chained SplitMix64 finaliser in Python integers."""
    mask, state = (1 << 64) - 1, 0
    for key in keys:
        state = (state + key + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state if state < 1 << 63 else state - (1 << 64)


def test_the_hash_is_splitmix64():
    # first outputs of the published generator from seed 0 and seed 1234567
    assert int(hash_keys(0)) & (1 << 64) - 1 == 0xE220A8397B1DCDAF
    assert int(hash_keys(1234567)) == 6457827717110365317
    rng = np.random.default_rng(0)
    for _ in range(200):
        keys = [int(k) for k in rng.integers(-(2**62), 2**62, rng.integers(1, 5))]
        assert int(hash_keys(*keys)) == splitmix(*keys)


def test_keys_broadcast_and_keep_their_order():
    rows, columns = torch.arange(3)[:, None], torch.arange(4)
    table = hash_keys(7, rows, columns)
    assert table.shape == (3, 4)
    assert int(table[2, 1]) == int(hash_keys(7, 2, 1))
    assert table.unique().numel() == 12
    assert int(hash_keys(1, 2)) != int(hash_keys(2, 1))


def test_bits_are_fair_and_change_with_every_key():
    for keys in ((KEYS,), (5, KEYS), (KEYS, Purpose.POLICY, 3)):
        bits = (hash_keys(*keys)[:, None] >> torch.arange(64)) & 1
        share = bits.float().mean(0)
        assert float((share - 0.5).abs().max()) < 5 * 0.5 / NUM**0.5
    for flip in range(0, 63, 7):
        changed = hash_keys(KEYS) ^ hash_keys(KEYS ^ (1 << flip))
        share = ((changed[:, None] >> torch.arange(64)) & 1).float().mean()
        assert abs(float(share) - 0.5) < 0.01


def test_uniform_draws():
    draws = uniform(3, KEYS, Purpose.INITIAL)
    assert draws.dtype == torch.float32
    assert 0.0 < float(draws.min()) < float(draws.max()) < 1.0
    same(draws, "uniform")
    counts = torch.histc(draws, 100, 0, 1).double().numpy()
    assert chi2.sf(((counts - NUM / 100) ** 2 / (NUM / 100)).sum(), 99) > 1e-3


def test_normal_draws():
    draws = normal(3, KEYS, Purpose.SPAWN_NOISE)
    same(draws, "norm")
    neighbours = torch.corrcoef(torch.stack([draws[:-1], draws[1:]]))[0, 1]
    assert abs(float(neighbours)) < 5 / NUM**0.5
    others = torch.corrcoef(torch.stack([draws, normal(4, KEYS, Purpose.SPAWN_NOISE)]))[0, 1]
    assert abs(float(others)) < 5 / NUM**0.5


@pytest.mark.parametrize("concentration", [1.0, 1.3, 2.5, 12.0, 300.0])
def test_gamma_draws(concentration):
    draws = gamma(torch.full((NUM,), concentration), KEYS, 1)
    assert (draws > 0).all()
    assert kstest(draws.double().numpy(), scipy_gamma(concentration).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (1.7, 1.7), (1.0, 6.0), (9.0, 2.0), (60.0, 40.0)])
def test_beta_draws(a, b):
    draws = beta(torch.full((NUM,), a), torch.full((NUM,), b), KEYS, 2)
    assert float(draws.min()) >= 0.0
    assert float(draws.max()) <= 1.0
    assert kstest(draws.double().numpy(), scipy_beta(a, b).cdf).pvalue > 1e-3


def test_a_draw_depends_on_its_own_keys_alone():
    alpha, other = torch.linspace(1.0, 30.0, 500), torch.linspace(8.0, 1.0, 500)
    keys = torch.arange(500)
    all_at_once = (uniform(keys), normal(keys), gamma(alpha, keys), beta(alpha, other, keys))
    for k in (0, 17, 499):
        one = keys[k : k + 1]
        a, b = alpha[k : k + 1], other[k : k + 1]
        singly = (uniform(one), normal(one), gamma(a, one), beta(a, b, one))
        for many, single in zip(all_at_once, singly, strict=True):
            assert torch.equal(many[k : k + 1], single)


def test_concentrations_broadcast_against_keys():
    draws = gamma(torch.tensor([[2.0], [3.0]]), torch.arange(5))
    assert draws.shape == (2, 5)
    assert beta(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 1.0]), torch.arange(4)[:, None]).shape == (4, 2)


def test_purposes_are_distinct():
    assert len({int(p) for p in Purpose}) == len(Purpose)
    draws = torch.stack([uniform(1, purpose, KEYS) for purpose in Purpose])
    off = torch.corrcoef(draws) - torch.eye(len(Purpose))
    assert float(off.abs().max()) < 6 / NUM**0.5
