"""The history of a run: a row an epoch, as `history.csv`."""

import csv
import io

from strokeseg_tf.runs import Run


def mean_dice(row):
    """Mean over the heads of an epoch's validation Dice: what the best weights are chosen by."""
    dices = [v for key, v in row.items() if key.startswith("val_") and key.endswith("_dice")]
    return sum(dices) / len(dices)


#: The columns of `history.csv` that come first; the training metrics follow.
FIRST_COLUMNS = (
    "epoch", "loss", "val_loss", "val_adc_dice", "val_dwi_dice", "learning_rate", "seconds"
)  # fmt: skip


def to_csv(history) -> str:
    """The text of `history.csv`."""
    columns = [c for c in FIRST_COLUMNS if c in history[0]]
    columns += sorted(set(history[0]) - set(columns))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def read_history(run: Run) -> list[dict]:
    """The rows of `history.csv`, or none."""
    if not run.history_file.is_file():
        return []
    with open(run.history_file, newline="", encoding="utf-8") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    return [row | {"epoch": int(row["epoch"])} for row in rows]
