"""The learning curves of a run as a picture."""

from pathlib import Path

from tfrecord_tools.atomic import new_file

#: By what a column's name begins with.
COLOURS = {"adc": "tab:blue", "dwi": "tab:orange"}


def draw_curves(history, path: Path) -> None:
    """Loss, Dice and learning rate over the epochs, as PNG.

    Args:
        history: Rows of `history.csv`.
        path: File to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, overlap, rate = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in history]

    def line(axes, column, **style):
        # A point where there is one epoch.
        axes.plot(epochs, [row[column] for row in history], marker=".", markersize=3, **style)

    line(loss, "loss", color="tab:gray", linestyle="--", label="training")
    line(loss, "val_loss", color="black", label="validation")
    for modality, colour in COLOURS.items():
        if f"val_{modality}_dice" in history[0]:
            name = modality.upper()
            line(
                overlap, f"{modality}_dice", color=colour, linestyle="--", label=f"{name} training"
            )
            line(overlap, f"val_{modality}_dice", color=colour, label=f"{name} validation")
    line(rate, "learning_rate", color="black")
    for axes, title in ((loss, "Loss"), (overlap, "Dice"), (rate, "Learning rate")):
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    overlap.set_ylim(0, 1)
    for axes in (loss, overlap):
        axes.legend(frameon=False, fontsize="small")
    with new_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
