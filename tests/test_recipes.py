import dataclasses
import json
from typing import Any

import pytest

from dtfn import recipes
from dtfn.errors import InputError


def test_every_variant_of_the_zoo_is_a_network() -> None:
    from dtfn import models

    assert {f"mini-{variant}" for variant in recipes.VARIANTS} <= set(models.known_names())


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_authors_recipe(scale: int) -> None:
    """As their paper and code say: see the constants beside each line."""
    recipe = recipes.preset(f"dtfn_x{scale}")
    assert (recipe.network, recipe.scale, recipe.sets) == ("dtfn", scale, ("DIV2K_train_HR",))
    assert (recipe.batch, recipe.patch, recipe.loss) == (16, 48, "l1")
    assert (recipe.ema, recipe.clip, recipe.precision) == (0, 0, "32-true")  # plain Adam, float32
    assert (recipe.hyperparameters, recipe.testing) == ((("n_hashes", 3),), (("n_hashes", 4),))
    epochs, halvings = (1500, (300, 600, 900, 1200)) if scale == 2 else (200, (50, 100, 150))
    assert recipe.steps == 1000 * epochs
    for epoch in range(0, epochs, 10):
        halved = sum(epoch >= mark for mark in halvings)
        assert recipe.rate(1000 * epoch) == pytest.approx(1e-4 / 2**halved, rel=1e-12)
        assert recipe.rate(1000 * epoch) == recipe.rate(1000 * epoch + 999)
    assert bool(recipe.start) == (scale > 2)


def test_the_stages_of_the_zoo() -> None:
    """Arms differ in their attention alone, and each can be switched off in the end."""

    def stages(variant: str) -> list[recipes.Recipe]:
        names = ("scratch-{}-x4-s0", "{}-x4-s0", "{}-x2-s0")
        return [recipes.preset(name.format(variant)) for name in names]

    local = stages("local")
    for variant in recipes.VARIANTS:
        scratch, last, other = stages(variant)
        assert (scratch.start, scratch.hyperparameters) == ("", ())
        plain = variant.removesuffix("+tfs")
        assert last.start == f"scratch-{plain}-x4-s0/weights.safetensors"
        assert other.start == f"{variant}-x4-s0"
        off = 0.0 if variant.startswith("local") else 0.5
        assert [one.attention_off for one in (scratch, last, other)] == [0.0, off, off]
        for one, base in zip((scratch, last, other), local, strict=True):
            same: dict[str, Any] = {"network": base.network, "start": base.start}
            same["attention_off"] = 0.0
            assert dataclasses.replace(one, **same) == base
    assert [one.steps for one in local] == [8797, 2000, 3000]


def test_names_and_what_a_demonstration_needs() -> None:
    assert recipes.split_name("dtfn-notfs-x4-s11") == ("dtfn-notfs", 4, 11)
    assert recipes.split_name("dtfn_x4") is None
    recipe = recipes.preset("demo-nla+tfs-x3-s2")
    assert (recipe.network, recipe.scale, recipe.seed) == ("mini-nla+tfs", 3, 2)
    assert (recipe.sets, recipe.validation, recipe.start) == (("embedded",), "embedded", "")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("dtfn_x5", {}, "did you mean 'dtfn_x"),
        ("nlla-x4-s0", {}, "did you mean 'nla-x4-s0'"),
        ("local-x4-s0", {"step": 3}, "expected a known field; found 'step'; did you mean 'steps'"),
        ("local-x4-s0", {"steps": 2.5}, "steps of a recipe: expected a valid integer.* found 2.5"),
        ("local-x4-s0", {"steps": 0}, "expected greater than or equal to 1; found 0"),
        ("local-x4-s0", {"sets": ()}, "sets of a recipe: .* at least 1 item"),
        ("local-x4-s0", {"loss": "l2"}, "expected 'l1' or 'charbonnier'; found 'l2'"),
        ("local-x4-s0", {"learning_rate": float("nan")}, "expected a finite number"),
        ("local-x4-s0", {"hyperparameters": 3}, "hyperparameters of a recipe: expected"),
    ],
)
def test_what_is_no_recipe_is_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipes.preset(name, **changes)


def test_text_is_read_as_the_type_of_its_field() -> None:
    text = {"steps": "50", "learning_rate": "1e-4", "sets": "T91, BSD200", "milestones": "3,5"}
    recipe = recipes.preset("local-x4-s0", **text, hyperparameters='{"n_feats": 16}')
    assert (recipe.steps, recipe.learning_rate, recipe.milestones) == (50, 1e-4, (3, 5))
    assert (recipe.sets, recipe.hyperparameters) == (("T91", "BSD200"), (("n_feats", 16),))


def test_a_recipe_survives_json_and_takes_the_defaults_of_new_fields() -> None:
    for name in ("dtfn_x3", "demo-nla-x4-s0", "local-x2-s1"):
        recipe = recipes.preset(name)
        assert recipes.from_json(json.loads(json.dumps(dataclasses.asdict(recipe)))) == recipe
    old = recipes.from_json({"network": "mini-local", "scale": 4, "sets": ["T91"], "steps": 7})
    assert (old.schedule, old.precision, old.start) == ("cosine", "bf16-mixed", "")
    with pytest.raises(InputError, match="scale of a recipe: expected Field required"):
        recipes.from_json({"network": "mini-local"})
