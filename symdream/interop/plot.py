"""Draws an adapter's norms and singular values by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from symdream.errors import RequestError
from symdream.files import write_atomically


def plot_layers(facts: dict[str, Any], path: Path) -> None:
    """Write a PNG: above, the Frobenius norm of every layer's update; below, its singular values over the largest.

    `facts` are inspect_adapter's. Raises: RequestError if matplotlib is not installed, or no norm is known.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise RequestError(
            "Plotting needs matplotlib, which is not installed.", fix='pip install "symdream[bench]"'
        ) from None
    layers = [layer for layer in facts["layers"] if layer["spectrum"]]
    if not layers:
        raise RequestError("There is nothing to plot: the file does not tell the shapes of its layers.")
    figure = Figure(figsize=(11, 6), layout="constrained")
    norms, spectra = figure.subplots(2, 1)
    for component in dict.fromkeys(layer["component"] for layer in layers):
        places = [i for i, layer in enumerate(layers) if layer["component"] == component]
        norms.bar(places, [layers[i]["norm"] for i in places], label=component)
    norms.set(title=Path(facts["path"]).name, xlabel="layer, in the file's order", ylabel="norm of the update")
    norms.legend()
    for layer in layers:
        largest = layer["spectrum"][0]
        if largest > 0:
            values = [s / largest for s in layer["spectrum"]]
            spectra.plot(range(1, len(values) + 1), values, color="tab:blue", alpha=0.25)
    spectra.set(xlabel="singular value", ylabel="over the largest", yscale="log")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
