"""Files of pretrained members; those that come with the package are read when they are asked for."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from napari_btn.core.networks.family import Blueprint, Member, family_of
from napari_btn.core.networks.prior import Prior
from napari_btn.core.settings import NetworkSettings
from napari_btn.io.bundle import Bundle, read_bundle, write_bundle
from napari_btn.io.damage import reading

__all__ = ["load_prior", "save_prior", "shipped_priors"]

_SCALING = ("x_loc", "x_scale", "y_loc", "y_scale")


def save_prior(prior: Prior, path: str | Path) -> None:
    """Save a prior, its weights in half precision; the file appears only when it is complete.

    Parameters
    ----------
    prior : Prior
    path : str or Path
    """
    blueprint = prior.blueprint
    values = {
        "kind": "prior",
        "name": prior.name,
        "network": blueprint.settings.to_dict(),
        **blueprint.family.to_dict(blueprint.plan),
        "n_in": blueprint.n_in,
        "n_out": blueprint.n_out,
        "ndim": blueprint.ndim,
        "levels": list(blueprint.levels),
        "seed": blueprint.seed,
        "members": [[m.number, m.attempt] for m in prior.members],
        "record": prior.record,
    }
    arrays = {
        f"member.{m.number}.{name}": value.astype(np.float16)
        for m in prior.members
        for name, value in m.weights.items()
        if name not in _SCALING
    }
    write_bundle(Bundle(values, arrays), path)


def load_prior(path: str | Path) -> Prior:
    """Return the prior of a file.

    Parameters
    ----------
    path : str or Path

    Raises
    ------
    ValueError
        If the file is damaged, newer, or not a prior.
    """
    bundle = read_bundle(path)
    values = bundle.values
    if values.get("kind") != "prior":
        raise ValueError(f"{path} holds no members to start from; make some with `napari-btn pretrain`.")
    with reading(Path(path), "{file} lacks a part of a prior ({why}); it is damaged. Copy it again."):
        network = NetworkSettings.from_dict(values["network"])
        blueprint = Blueprint(
            network,
            family_of(network.family).from_dict(values),
            values["n_in"],
            values["n_out"],
            values["ndim"],
            tuple(values["levels"]),
            values["seed"],
        )
        names = sorted({k.split(".", 2)[2] for k in bundle.arrays})
        ones = {n: blueprint.n_in if n[0] == "x" else blueprint.n_out for n in _SCALING}
        scaling = {n: np.full(c, float(n.endswith("scale")), np.float32) for n, c in ones.items()}
        members = tuple(
            Member(k, a, {n: bundle.arrays[f"member.{k}.{n}"].astype(np.float32) for n in names} | scaling)
            for k, a in values["members"]
        )
        return Prior(values["name"], blueprint, members, values["record"])


@lru_cache(maxsize=16)
def _shipped(path: Path) -> Prior:
    """Return a prior that comes with the package, from memory where it was read before."""
    return load_prior(path)


def shipped_priors(blueprint: Blueprint) -> tuple[Prior, ...]:
    """Return the priors of the package that networks of a blueprint can start from.

    Parameters
    ----------
    blueprint : Blueprint
    """
    folder = Path(str(files("napari_btn") / "pretrained"))
    # the name says dimensions and channels, so that others are not read
    fitting = sorted(folder.glob(f"{blueprint.ndim}d-{blueprint.n_in}c-*.safetensors"))
    priors = [_shipped(path) for path in fitting]
    return tuple(p for p in priors if not p.mismatch(blueprint))
