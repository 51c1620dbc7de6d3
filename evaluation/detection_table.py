"""The detection report as Markdown, with the paper's and the peers' rows beside ours."""

from evaluation.formats import markdown_table
from evaluation.published import PAPER_TABLE_3, PEERS, XSTEST_PROMPT_FPR

# Where the same pair was annotated twice (upstream's own rows): the ceiling that label noise sets.
LABEL_NOISE = (
    "Label noise: where the same BeaverTails pair was annotated twice, all 14 labels agree on 59 to 73 %, and "
    "safe/unsafe on 89 to 100 %."
)


def detection_markdown(report: dict) -> str:
    """The report of `evaluate_lance.py detection` as Markdown; only the sections that it has."""
    sections = ["# Detection"]
    if "beavertails" in report:
        sections += [_beavertails(report["beavertails"], report["parameters"]), _categories(report["beavertails"])]
        sections.append(_uncertainty(report["beavertails"]["uncertainty"]))
    if "xstest" in report:
        sections += [_xstest(report["xstest"]), _xstest_types(report["xstest"])]
    if "other_domains" in report:
        sections.append(_other_domains(report["other_domains"]))
    return "\n\n".join(sections) + "\n"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _with_interval(value: float | None, bounds: tuple[float, float] | None) -> str:
    if bounds is None:
        return "-"
    return f"{_percent(value)} [{_percent(bounds[0])}, {_percent(bounds[1])}]"


def _beavertails(figures: dict, parameters: int) -> str:
    ours = [
        "**Lance**",
        f"{parameters / 1e6:.0f}M",
        f"**{_with_interval(figures['binary_f1'], figures['binary_f1_interval'])}**",
        "-",
        "measured",
    ]
    peers = [
        [peer.model, peer.size, f"{peer.beavertails:.1f}", str(peer.xstest_responses or "-"), peer.source]
        for peer in PEERS
    ]
    rows = sorted(
        [(100 * (figures["binary_f1"] or 0), ours)] + [(p.beavertails, r) for p, r in zip(PEERS, peers, strict=True)],
        key=lambda row: -row[0],
    )
    other = markdown_table(
        ["AUPRC × 100", "micro-F1 × 100", "macro-F1 × 100", "mAP × 100", "ECE × 100", "threshold", "FPR %", "recall %"],
        [
            [_with_interval(figures["auprc"], figures["auprc_interval"])]
            + [_percent(figures[name]) for name in ("micro_f1", "macro_f1", "map", "ece")]
            + [f"{figures['threshold']:.3f}"]
            + [_percent(figures[name]) for name in ("flag_rate_safe", "flag_rate_harmful")]
        ],
    )
    return "\n\n".join(
        [
            f"## BeaverTails test split ({figures['n']:,} pairs, {figures['harmful']:,} harmful)",
            f"{figures['protocol']} {LABEL_NOISE}",
            markdown_table(
                ["model", "size", "F1 × 100", "F1 × 100 on XSTest responses", "source"], [row for _, row in rows]
            ),
            other,
        ]
    )


def _categories(figures: dict) -> str:
    rows = [
        [category, str(row["positives"]), _with_interval(row["f1"], row["interval"])]
        for category, row in figures["category_f1"].items()
    ]
    return "### By category\n\n" + markdown_table(["category", "positives", "F1 × 100 [95 %]"], rows)


def _uncertainty(figures: dict) -> str:
    """Errors by spread, in groups of equal size."""

    def errors(row: dict | None) -> str:
        return "-" if row is None else _with_interval(row["errors"], row["interval"])

    groups = [[f"{row['spread']:.3f}", str(row["n"]), errors(row)] for row in figures["groups"]]
    tenths = [
        ["the tenth with the widest spread", errors(figures["widest_tenth"])],
        ["the rest", errors(figures["rest"])],
        ["the tenth nearest the threshold", errors(figures["smallest_margins"])],
    ]
    return "\n\n".join(
        [
            "### Uncertainty",
            figures["protocol"],
            markdown_table(["pairs", "wrong, % [95 %]"], tenths),
            markdown_table(["mean spread", "pairs", "wrong, % [95 %]"], groups),
        ]
    )


def _xstest(figures: dict) -> str:
    rows = []
    for threshold, (paper_fpr, paper_detection) in PAPER_TABLE_3.items():
        ours = figures[threshold]
        alone, uncertain = ours["prompts_alone"], ours["with_uncertainty"]
        rows.append(
            [
                threshold,
                _with_interval(ours["fpr"], ours["fpr_interval"]),
                _with_interval(ours["detection"], ours["detection_interval"]),
                f"{_percent(alone['fpr'])} / {_percent(alone['detection'])}",
                f"{_percent(uncertain['fpr'])} / {_percent(uncertain['detection'])}",
                f"{paper_fpr} / {paper_detection}",
            ]
        )
    pairs_of_rates = ("prompts alone", "with uncertainty", "paper")
    header = ["τ", "FPR % [95 %]", "detection % [95 %]", *(f"{name}, FPR / detection" for name in pairs_of_rates)]
    others = ", ".join(f"{model} {rate} %" for model, rate in XSTEST_PROMPT_FPR.items())
    counts = (
        f"{figures['n_safe']:,} safe and {figures['n_harmful']} harmful pairs; alone {figures['n_safe_prompts']} safe "
        f"and {figures['n_harmful_prompts']} harmful prompts. The paper's protocol is unknown. "
        f"Others' FPR on the safe prompts alone: {others}."
    )
    return f"## XSTest\n\n{figures['protocol']} {counts}\n\n{markdown_table(header, rows)}"


def _xstest_types(figures: dict) -> str:
    kinds = figures["0.5"]["fpr_by_type"]
    rows = [[kind, *(_percent(figures[t]["fpr_by_type"][kind]) for t in PAPER_TABLE_3)] for kind in kinds]
    return "### FPR by kind of prompt\n\n" + markdown_table(["kind", *(f"τ = {t}" for t in PAPER_TABLE_3)], rows)


def _other_domains(figures: dict) -> str:
    names = ("f1", "auprc", "recall", "fpr", "recall_at_fpr_0.2")
    rows = [
        [source, str(row["n"]), str(row["harmful"]), *(_percent(row[name]) for name in names)]
        for source, row in figures.items()
        if isinstance(row, dict)
    ]
    header = ["source", "pairs", "harmful", "F1", "AUPRC", "recall", "FPR", "recall at FPR 20 %"]
    return f"## Other domains\n\n{figures['protocol']}\n\n{markdown_table(header, rows)}"
