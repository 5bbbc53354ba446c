"""Dead features come back: a known dictionary, the literal formula of the draw, and what must stay as it was."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAETrainer
from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
from safetensors.torch import save_file

from sae_lens_med.errors import ConfigError
from sae_lens_med.saes.tied_l1 import TiedL1TrainingSAE, TiedL1TrainingSAEConfig
from sae_lens_med.training.activations import Activations
from sae_lens_med.training.recipe import Revival, load_recipe
from sae_lens_med.training.revive import draw, is_due, revive, rows_for
from tests.tiny import tiny_trainer

D_IN, N_TRUE, D_SAE, BATCH = 24, 40, 48, 256
KILLED = torch.arange(0, D_SAE, 3)


def true_dictionary() -> torch.Tensor:
    rows = torch.randn(N_TRUE, D_IN, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(rows, dim=1)


def samples(seed: int) -> Iterator[torch.Tensor]:
    """Batches of combinations of about 3 true features, off-centre and not of unit scale."""
    random = torch.Generator().manual_seed(seed)
    dictionary = true_dictionary()
    while True:
        active = torch.rand(BATCH, N_TRUE, generator=random) < 3 / N_TRUE
        yield 5 * (active * (1 + torch.rand(BATCH, N_TRUE, generator=random))) @ dictionary + 2


def trained(steps: int = 60) -> SAETrainer[Any, Any]:
    """A tied SAE trained for some steps with a third of its features killed by hand."""
    torch.manual_seed(0)
    sae = TiedL1TrainingSAE(
        TiedL1TrainingSAEConfig(
            d_in=D_IN,
            d_sae=D_SAE,
            center="mean",
            normalize_activations="expected_average_only_in",
            l1_coefficient=0.3,
        )
    )
    with torch.no_grad():
        sae.E.mul_(torch.linspace(0.5, 2, D_SAE)[:, None])
        sae.b_enc[KILLED] = -100
    trainer = tiny_trainer(sae, BATCH, dead_feature_window=30)
    trainer.activation_scaler.estimate_scaling_factor(D_IN, samples(1), 5)
    train(trainer, steps, seed=2)
    return trainer


def train(trainer: SAETrainer[Any, Any], steps: int, seed: int) -> float:
    """Returns the mean loss of the last ten steps."""
    losses = []
    for batch in itertools.islice(samples(seed), steps):
        losses.append(trainer.step(batch).loss.item())
        trainer.n_training_steps += 1
    return sum(losses[-10:]) / 10


def firing(trainer: SAETrainer[Any, Any]) -> torch.Tensor:
    """How often each feature fires on new rows."""
    x = torch.cat(list(itertools.islice(samples(77), 8)))
    return (trainer.sae.encode(trainer.activation_scaler(x)) > 0).float().mean(0)


def test_killed_features_fire_again_and_the_error_falls() -> None:
    with_revival, without = trained(), trained()
    assert not firing(with_revival)[KILLED].any()
    batch = next(samples(5))
    assert revive(with_revival, batch, seed=1, step=60, dead_steps=30) == len(KILLED)
    assert (firing(with_revival)[KILLED] > 0).all()
    loss, loss_without = (train(t, 300, seed=3) for t in (with_revival, without))
    assert firing(without)[KILLED].eq(0).all()
    assert (firing(with_revival)[KILLED] > 0.003).float().mean() > 0.8
    assert not with_revival.dead_neurons[KILLED].all()
    assert with_revival.dead_neurons.float().mean() < 0.5 * without.dead_neurons.float().mean()
    assert loss < 0.97 * loss_without


def test_revived_rows_biases_and_moments() -> None:
    trainer = trained()
    sae, batch = trainer.sae, next(samples(5))
    for p in (sae.E, sae.b_enc):  # what a feature leaves that was alive once
        for name in ("exp_avg", "exp_avg_sq"):
            trainer.optimizer.state[p][name][KILLED] = 0.5
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    moments = {
        (p, name): trainer.optimizer.state[p][name].clone()
        for p in (sae.E, sae.b_enc)
        for name in ("exp_avg", "exp_avg_sq")
    }
    since = trainer.n_forward_passes_since_fired.clone()
    dead = since > 30
    assert dead.nonzero().squeeze(1).tolist() == KILLED.tolist()
    x = trainer.activation_scaler(batch)
    errors = (x - sae(x)).detach()
    fired = (sae.encode(x) > 0).sum(0)[~dead].float().mean().item()

    revive(trainer, batch, seed=1, step=60, dead_steps=30)
    # every row is the direction of some row's error, no two of the same
    cosine = torch.nn.functional.normalize(sae.E[dead], dim=1) @ torch.nn.functional.normalize(errors, dim=1).T
    assert (cosine.max(1).values > 1 - 1e-5).all()
    assert cosine.argmax(1).unique().numel() == len(KILLED)
    living_norm = before["E"][~dead].norm(dim=1).mean()
    torch.testing.assert_close(sae.E[dead].norm(dim=1), living_norm.expand(len(KILLED)))
    fires = (sae.encode(x) > 0).sum(0)[dead]
    assert (fires - round(fired)).abs().max() <= 1
    for (p, name), value in moments.items():
        now = trainer.optimizer.state[p][name]
        assert not now[dead].any(), name
        assert torch.equal(now[~dead], value[~dead]) and value[~dead].any(), name
    assert not trainer.n_forward_passes_since_fired[dead].any()
    assert torch.equal(trainer.n_forward_passes_since_fired[~dead], since[~dead])
    for name, value in sae.state_dict().items():
        if name in ("E", "b_enc"):
            assert torch.equal(value[~dead], before[name][~dead]), name
        else:
            assert torch.equal(value, before[name]), name


def test_the_same_seed_step_and_batch_revive_the_same_way() -> None:
    batch = next(samples(5))
    states = []
    for seed, step in [(1, 60), (1, 60), (1, 61), (2, 60)]:
        trainer = trained()
        torch.rand(3)  # the global generator has no part in it
        revive(trainer, batch, seed=seed, step=step, dead_steps=30)
        states.append(trainer.sae.E.detach().clone())
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2]) and not torch.equal(states[0], states[3])


def test_nothing_is_dead_nothing_changes() -> None:
    trainer = trained(steps=20)
    before = {name: value.clone() for name, value in trainer.sae.state_dict().items()}
    assert revive(trainer, next(samples(5)), seed=1, step=20, dead_steps=30) == 0
    for name, value in trainer.sae.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_feature_is_dead_after_more_steps_than_given() -> None:
    trainer = trained()
    trainer.n_forward_passes_since_fired.zero_()
    trainer.n_forward_passes_since_fired[:3] = torch.tensor([29, 30, 31])
    assert revive(trainer, next(samples(5)), seed=1, step=60, dead_steps=30) == 1
    assert trainer.n_forward_passes_since_fired[:3].tolist() == [29, 30, 0]


def test_a_dictionary_that_is_all_dead_comes_back() -> None:
    trainer = trained()
    with torch.no_grad():
        trainer.sae.b_enc.fill_(-100)
    trainer.n_forward_passes_since_fired.fill_(1000)
    assert revive(trainer, next(samples(5)), seed=1, step=60, dead_steps=30) == D_SAE
    assert (firing(trainer) > 0).all()


def test_no_more_features_than_rows() -> None:
    trainer = trained()
    assert revive(trainer, next(samples(5))[:4], seed=1, step=60, dead_steps=30) == 4
    assert trainer.n_forward_passes_since_fired[KILLED].eq(0).tolist() == [True] * 4 + [False] * (len(KILLED) - 4)


def test_a_row_is_drawn_with_a_probability_proportional_to_its_squared_loss() -> None:
    loss = torch.tensor([0.0, 1.0, 2.0, 3.0, 0.5, 4.0])
    p = [float(v) ** 2 / sum(float(w) ** 2 for w in loss) for v in loss]
    generator, n = torch.Generator().manual_seed(3), 8000
    pairs = [tuple(draw(loss, 2, generator).tolist()) for _ in range(n)]
    for row in range(6):  # the first draw, then the second among those that are left
        first = sum(a == row for a, _ in pairs) / n
        assert first == pytest.approx(p[row], abs=4 * (p[row] / n) ** 0.5 + 1e-9)
        second = sum(b == row for _, b in pairs) / n
        literal = sum(p[a] * p[row] / (1 - p[a]) for a in range(6) if a != row)
        assert second == pytest.approx(literal, abs=4 * (literal / n) ** 0.5 + 1e-9)
    assert sorted(draw(loss, 10, generator).tolist()) == [1, 2, 3, 4, 5]  # once each, and never without a loss
    assert len(draw(torch.zeros(4), 3, generator)) == 0


def test_rows_depend_on_seed_and_step_and_come_from_the_first_window(tmp_path: Path) -> None:
    for number in range(2):
        values = torch.arange(100.0)[:, None].repeat(1, 2) + 100 * number + 1
        shard = {"activations": values.bfloat16(), "norm": torch.ones(100)}
        save_file(shard, tmp_path / f"shard-{number:06d}.safetensors")
    (tmp_path / "manifest.json").write_text('{"rows": [100, 100]}')
    acts = Activations(tmp_path, 5.0, buffer_tokens=100)
    first = rows_for(acts, 50, 20, seed=1, step=5)
    assert first.shape == (40, 2) and first.dtype == torch.float32
    assert len(first[:, 0].unique()) == 40 and first.max() <= 100
    assert torch.equal(first, rows_for(acts, 50, 20, seed=1, step=5))
    assert not torch.equal(first, rows_for(acts, 50, 20, seed=1, step=6))
    assert not torch.equal(first, rows_for(acts, 50, 20, seed=2, step=5))
    assert len(rows_for(acts, 8192, 20, seed=1, step=5)) == 100
    assert len(rows_for(acts, 5, 20, seed=1, step=5)) == 20


def test_when_it_is_due() -> None:
    revival = Revival(every=10, dead_steps=5, until=0.5)
    assert [step for step in range(1, 101) if is_due(revival, step, 100)] == [10, 20, 30, 40, 50]
    assert not is_due(None, 10, 100)


def test_other_architectures_are_refused() -> None:
    trainer = tiny_trainer(StandardTrainingSAE(StandardTrainingSAEConfig(d_in=D_IN, d_sae=8)), BATCH)
    with pytest.raises(ConfigError, match="in tied_l1 only, this SAE is 'standard'; leave 'revive' out"):
        revive(trainer, next(samples(5)), seed=1, step=1, dead_steps=1)


def test_the_recipes_section() -> None:
    recipe = load_recipe("tiny", ["revive.every=20", "revive.dead_steps=10"])
    assert recipe.revive == Revival(every=20, dead_steps=10, until=0.6, rows=8192)
    assert recipe.to_dict()["revive"] == {"every": 20, "dead_steps": 10, "until": 0.6, "rows": 8192}
    assert "revive" not in load_recipe("tiny").to_dict()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["revive.every=20"], "lacks the key 'dead_steps' of its section 'revive'"),
        (["revive.every=0", "revive.dead_steps=3"], "revive.every must be a whole number of at least 1, got 0"),
        (["revive.every=3", "revive.dead_step=3"], "unknown key 'dead_step'; did you mean dead_steps"),
        (["revive.every=3", "revive.dead_steps=3", "revive.until=1.5"], "above 0 and at most 1, got 1.5"),
        (["revive=3"], "has no section 'revive'"),
        (
            ["sae={architecture: topk, d_sae: 8, k: 2}", "revive.every=3", "revive.dead_steps=3"],
            "revival is written for tied_l1, not for 'topk'",
        ),
    ],
)
def test_a_wrong_section_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("tiny", overrides)


def test_a_number_in_scientific_notation_is_a_number() -> None:
    assert load_recipe("tiny", ["lr=1e-3"]).runner["lr"] == 0.001
