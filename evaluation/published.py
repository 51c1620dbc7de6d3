"""Figures that others have published, to stand beside ours."""

from typing import NamedTuple


class Peer(NamedTuple):
    """Response-harm F1 × 100 of another guard; `None` where its source gives none."""

    model: str
    size: str
    beavertails: float
    xstest_responses: float | None
    source: str


PEERS = (
    Peer("BeaverDam", "7B", 89.9, 83.6, "WildGuard paper, Table 3"),
    Peer("MD-Judge", "7B", 86.7, 90.4, "WildGuard paper, Table 3"),
    Peer("Qwen3Guard-Gen strict", "8B", 86.6, 92.1, "Qwen3Guard report, Table 3"),
    Peer("Qwen3Guard-Gen strict", "4B", 86.6, 92.7, "Qwen3Guard report, Table 3"),
    Peer("Qwen3Guard-Gen strict", "0.6B", 86.1, 89.7, "Qwen3Guard report, Table 3"),
    Peer("GPT-4", "-", 86.1, 91.3, "WildGuard paper"),
    Peer("WildGuard", "7B", 84.4, 94.7, "WildGuard paper"),
    Peer("PolyGuard-Qwen", "7B", 79.5, 63.4, "Qwen3Guard report"),
    Peer("NemoGuard", "8B", 78.5, 86.2, "Qwen3Guard report"),
    Peer("TF-IDF + logistic regression", "-", 77.9, None, "measured for this project, on the same training file"),
    Peer("Granite Guardian 3.0", "8B", 77.6, 84.9, "its report"),
    Peer("Always unsafe", "-", 72.9, None, "arithmetic"),
    Peer("Llama Guard 2", "8B", 71.8, 90.8, "WildGuard paper, Qwen3Guard report"),
    Peer("Llama Guard 4", "12B", 68.6, 88.9, "WildGuard paper, Qwen3Guard report"),
    Peer("Llama Guard 3", "8B", 67.9, 89.8, "WildGuard paper, Qwen3Guard report"),
    Peer("ShieldGemma", "27B", 67.6, 83.0, "Qwen3Guard report"),
    Peer("ShieldGemma", "9B", 62.4, 86.3, "Qwen3Guard report"),
)

# The paper's Table 1: backbone -> method -> (safety, helpfulness, naturalness), each 1 to 10.
PAPER_TABLE_1 = {
    "Llama3-8B": {
        "vanilla": (4.57, 5.59, 7.04),
        "repe": (5.91, 6.45, 7.45),
        "sysprompt": (8.40, 7.21, 7.74),
        "selfrefine": (9.03, 6.65, 7.86),
        "instruct": (9.55, 3.41, 6.71),
        "lance": (9.23, 7.89, 8.69),
    },
    "Llama3.1-8B": {
        "vanilla": (5.88, 6.21, 7.28),
        "repe": (7.66, 7.02, 7.63),
        "sysprompt": (9.21, 7.56, 7.84),
        "selfrefine": (9.27, 6.56, 7.67),
        "instruct": (9.18, 4.17, 7.00),
        "lance": (9.34, 7.79, 8.61),
    },
    "Qwen2.5-7B": {
        "vanilla": (9.74, 8.01, 8.03),
        "repe": (9.73, 7.98, 8.02),
        "sysprompt": (9.79, 8.00, 7.98),
        "selfrefine": (9.86, 8.03, 8.02),
        "instruct": (9.59, 7.58, 7.90),
        "lance": (9.88, 8.03, 8.25),
    },
}

# The paper's Table 2, in the same form: the ablations on one backbone.
PAPER_TABLE_2 = {
    "Llama3-8B": {"lance-nr": (4.57, 5.59, 7.04), "lance-nf": (8.64, 7.69, 8.37), "lance": (9.23, 7.89, 8.69)}
}

# The paper's Table 3: threshold -> (FPR on safe, detection on harmful), in per cent.
PAPER_TABLE_3 = {"0.3": (21.67, 96.38), "0.5": (13.71, 92.58), "0.7": (8.81, 90.64)}

# The paper's Table 4: commercial models as they are. Of Lance it prints 9.55, where its Table 1's rows average 9.48.
PAPER_TABLE_4 = {
    "Kimi-k2": (9.68, 7.35, 8.13),
    "Qwen3-Max": (9.89, 7.81, 8.35),
    "Gemini-2.5-Pro": (9.33, 2.84, 4.12),
    "GPT-4o": (9.84, 3.58, 6.64),
}
PAPER_TABLE_4_LANCE = (9.55, 7.88, 8.53)

# False alarms on XSTest's safe prompts, in per cent, as their makers report them.
XSTEST_PROMPT_FPR = {"Llama Guard 3 8B": 4.4, "Llama Guard 3 1B": 6.8, "GPT-4": 12.8}
