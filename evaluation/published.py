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

# The paper's Table 3: threshold -> (FPR on safe, detection on harmful), in per cent.
PAPER_TABLE_3 = {"0.3": (21.67, 96.38), "0.5": (13.71, 92.58), "0.7": (8.81, 90.64)}

# False alarms on XSTest's safe prompts, in per cent, as their makers report them.
XSTEST_PROMPT_FPR = {"Llama Guard 3 8B": 4.4, "Llama Guard 3 1B": 6.8, "GPT-4": 12.8}
