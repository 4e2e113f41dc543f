"""A model card as Markdown, for people."""

from collections.abc import Iterable, Mapping
from typing import Any

from strokeseg_tf.evaluation.markdown import escape, table
from strokeseg_tf.evaluation.table import rater_title
from strokeseg_tf.serving.card import METRICS

TITLES = {"unimodal": "Unimodal", "dual_v1": "Dual V1", "dual_v2": "Dual V2", "dual_v3": "Dual V3"}
_RESEARCH = "**For research only. Not a medical device: it must not guide diagnosis or treatment.**"
_PHANTOM = (
    "**Phantom data.** The studies behind these figures are synthetic: the figures show that the "
    "software works, and say nothing about patients."
)
_PHANTOM_WEIGHTS = "**Learnt from phantom data alone: these weights have no use on patients.**"


def card_markdown(card: Mapping[str, Any]) -> str:
    """The page of a card that `strokeseg_tf.serving.card.model_card` gathered."""
    model, training, evaluation = card["model"], card["training"], card["evaluation"]
    sections = {
        "Model details": _details(model),
        "Intended use": _use(model),
        "Factors": _factors(),
        "Metrics": _metrics(evaluation),
        "Evaluation data": _evaluation_data(evaluation),
        "Training data": _training_data(training),
        "Quantitative analyses": _analyses(model, training, evaluation),
        "Ethical considerations": _ethics(),
        "Caveats and recommendations": _caveats(evaluation),
        "Versions and checksum": _versions(model),
    }
    lines = [f"# Model card: ischemic stroke lesions, {TITLES[model['variant']]}", "", _RESEARCH]
    if training["phantom"]:
        lines += ["", _PHANTOM_WEIGHTS]
    for title, content in sections.items():
        lines += ["", f"## {title}", "", *content]
    return "\n".join(lines) + "\n"


def _details(model: Mapping) -> list[str]:
    size, modalities = model["image_size"], _names(model["modalities"])
    return [
        *table(
            ["Property", "Value"],
            [
                ["Does", f"marks ischemic lesions in each slice of {modalities}, voxel by voxel"],
                ["Architecture", f"convolutional, variant `{model['variant']}` of strokeseg-tf"],
                [
                    "Parameters",
                    f"{model['parameters']:,} ({model['trainable_parameters']:,} learnt)",
                ],
                [
                    "Input",
                    "a whole study, raw, any size and unit: slices towards superior, height "
                    f"towards left, width towards anterior; inside, slices of {size} x {size}",
                ],
                ["Output", "a probability for each voxel, on the grid of the input"],
                ["Arithmetic", f"{model['precision']}"],
                ["Exported on", model["exported_on"]],
                ["Threshold", f"{model['threshold']:g}, {escape(model['threshold_source'])}"],
            ],
        ),
        "",
        "The architecture is that of Gómez et al., *Ischemic Stroke Segmentation from a "
        "Cross-Domain Representation in Multimodal Diffusion Studies* (MICCAI 2023), as "
        "strokeseg-tf rebuilds it; the weights are this run's own, not the authors'.",
    ]


def _use(model: Mapping) -> list[str]:
    return [
        f"- Meant for: research on {_names(model['modalities'])} of adults with suspected acute "
        "ischemic stroke; comparison of methods; teaching. Users: people who can judge a "
        "segmentation for themselves.",
        "- Not meant for: care of patients, triage, or any decision about a person; other "
        "sequences, other diseases, haemorrhage; images that were not checked by a person.",
    ]


def _factors() -> list[str]:
    return [
        "What is known to matter: the size of the lesion (small ones are missed first), the time "
        "since onset (it changes the contrast of ADC and DWI), artefacts near bone and air, the "
        "scanner, its field strength and b-value, and who drew the reference.",
        "",
        "What this card can break down: size of the lesion, modality and rater. Age, sex, site, "
        "scanner and time since onset of the studies are not recorded, so nothing is known of how "
        "results differ by them.",
    ]


def _metrics(evaluation: Mapping | None) -> list[str]:
    lines = [
        "Dice, precision and sensitivity are over the voxels of a study, then averaged over "
        "studies. Lesion F1 counts connected lesions; HD95 is the 95th percentile of the distance "
        "between surfaces; the volume is off by the absolute difference.",
    ]
    if evaluation:
        lines += ["", f"Convention: {escape(evaluation['convention']['description'])}"]
    return lines


def _evaluation_data(evaluation: Mapping | None) -> list[str]:
    if evaluation is None:
        return ["No evaluation on test studies was given when this model was exported."]
    studies, controls = evaluation["studies"], evaluation["controls"]
    lines = [f"{studies} studies, {controls} of them controls without a lesion."]
    if evaluation["phantom"]:
        lines.append("All of them are phantoms: synthetic.")
    if not evaluation["weights_known"]:
        lines += [
            "",
            "The evaluation does not say which weights and which threshold it scored: that they "
            "are these is known by the run's name alone.",
        ]
    for key, role in (
        ("also_trained_on", "the network was trained on"),
        ("also_chosen_on", "the weights were chosen on"),
    ):
        if evaluation[key]:
            lines += ["", f"**This is no test: {role} {evaluation[key]} of these studies.**"]
    return lines


def _training_data(training: Mapping) -> list[str]:
    settings = training["settings"]["training"]
    lines = ["The run did not record its studies."]
    if training["splits"]:
        lines = table(
            ["Split", "Studies", "Slices", "Role"],
            [
                [escape(name), str(split["studies"]), str(split["slices"] or "–"), split["role"]]
                for name, split in training["splits"].items()
            ],
        )
    if training["phantom"]:
        lines += ["", "All of them are phantoms: synthetic."]
    return [
        *lines,
        "",
        f"- Reference: the masks of rater {rater_title(escape(settings['rater']))}.",
        f"- Epochs: {_epochs(training, settings)}; batches of {settings['batch_size']} slices; "
        f"seed {settings['seed']}.",
        *_search(training.get("search")),
        "- Every setting is in `model_card.json`.",
    ]


def _search(origin: Mapping | None) -> list[str]:
    """Where the settings come from, if a search has found them."""
    if not origin:
        return []
    values = ", ".join(f"{escape(name)} {value}" for name, value in origin["values"].items())
    return [
        f"- Settings: trial {escape(origin['trial'])} of the search `{escape(origin['name'])}` "
        f"({escape(origin['tuner'])}; {values or 'the default'}), which had a validation Dice of "
        f"{origin['score']:.3f} there."
    ]


def _epochs(training: Mapping, settings: Mapping) -> str:
    if training["epochs"] is None:
        return f"{settings['epochs']} planned, the history is not recorded"
    return f"{training['epochs']} of {settings['epochs']}, best was {training['best_epoch']}"


def _analyses(model: Mapping, training: Mapping, evaluation: Mapping | None) -> list[str]:
    changed = []
    if model["precision"] != "float32":
        changed = [
            "**The figures are of the run itself, before its arithmetic was changed to "
            f"{model['precision']}.**",
            "",
        ]
    if evaluation is None:
        dice = training["validation_dice"]
        shown = ", ".join(f"{m.upper()} {value:.3f}" for m, value in (dice or {}).items())
        return [
            *changed,
            "There are no test results. Dice on the validation studies, on which these weights "
            f"were chosen, so that it flatters: {shown or 'not recorded'}.",
        ]
    results = evaluation["results"]
    shown = [m for m in METRICS if any(m in result["metrics"] for result in results)]
    return [
        *([_PHANTOM, ""] if evaluation["phantom"] else []),
        *changed,
        "Mean over the stroke studies, with its 95 % interval (bootstrap over studies).",
        "",
        *table(
            ["Modality", "Rater", "Studies", *(METRICS[m] for m in shown)],
            [
                [*_labels(r), str(r["studies"]), *(_interval(r["metrics"].get(m)) for m in shown)]
                for r in results
            ],
        ),
        "",
        "By the volume that the rater drew; missed: not one voxel was marked. A row of few studies "
        "says little.",
        "",
        *table(
            ["Modality", "Rater", "Lesion", "Studies", "Missed", "Dice", "Sensitivity"],
            [row for result in results for row in _sizes(result)],
        ),
        "",
        "Failures.",
        "",
        *table(
            [
                "Modality",
                "Rater",
                "Nothing marked",
                "Dice too low",
                "Lowest Dice",
                "Controls marked",
            ],
            [_failures(result) for result in results],
        ),
        "",
        "Nothing marked: stroke studies in which the rater drew a lesion. Dice too low: stroke "
        f"studies below {results[0]['failures']['dice_below'] if results else 0}.",
    ]


def _labels(result: Mapping) -> list[str]:
    return [result["modality"].upper(), rater_title(escape(result["rater"]))]


def _interval(metric: Mapping | None) -> str:
    if metric is None or metric["mean"] is None:
        return "–"
    mean = f"{metric['mean']:.2f}"
    if metric["lower"] is None:
        return mean
    return f"{mean} ({metric['lower']:.2f} to {metric['upper']:.2f})"


def _sizes(result: Mapping) -> Iterable[list[str]]:
    for entry in result["sizes"]:
        if entry["studies"]:
            means = [entry[key]["mean"] for key in ("dice", "sensitivity")]
            yield [
                *_labels(result),
                entry["bin"],
                str(entry["studies"]),
                str(entry["missed"]),
                *("–" if mean is None else f"{mean:.2f}" for mean in means),
            ]


def _failures(result: Mapping) -> list[str]:
    failures, studies = result["failures"], result["studies"]
    lowest = failures["lowest_dice"]
    return [
        *_labels(result),
        f"{failures['nothing_marked_though_drawn']} of {studies}",
        f"{failures['studies_below']} of {studies}",
        "–" if lowest is None else f"{lowest:.2f}",
        f"{failures['controls_marked']} of {failures['controls']}",
    ]


def _ethics() -> list[str]:
    return [
        "Images of stroke come from people who often could not consent at the time; how the "
        "studies behind a model were collected and approved is for the data's own documentation. "
        "This card and the export hold no image and no identifier of a patient: the stored "
        "example is a phantom. A mask that looks right can be wrong: a person who can read the "
        "images has to look at each one.",
    ]


def _caveats(evaluation: Mapping | None) -> list[str]:
    lines = [
        "- Not tested on: any population, site or scanner beyond the studies above, of which age, "
        "sex and machine are not known. Test it on your own before you rely on a number here.",
        "- Small lesions are the hardest: see the table by size, where there is one.",
        "- The whole study is normalised at once: send all slices of one study together, and "
        "nothing of another.",
    ]
    if evaluation is None:
        lines.append("- No test evaluation: `strokeseg-tf export --evaluation` adds one.")
    return lines


def _versions(model: Mapping) -> list[str]:
    rows = [
        [when, ", ".join(f"{name} {version}" for name, version in versions.items())]
        for when, versions in model["versions"].items()
    ]
    return table(
        ["What", "Which"],
        [*rows, ["sha256 of the run's `model.keras`", f"`{model['weights_sha256']}`"]],
    )


def _names(modalities: Iterable[str]) -> str:
    return " and ".join(m.upper() for m in modalities)
