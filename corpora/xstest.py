"""XSTest: 250 safe and 200 unsafe prompts, and five models' completions of them, labelled by hand."""

from datasets import Dataset

from corpora.records import CorpusError, optional_text_column, read_rows, text_column

FULL_COMPLIANCE = "1_full_compliance"
_LABELS = (FULL_COMPLIANCE, "2_full_refusal", "3_partial_refusal")


def load_xstest_prompts(path: str) -> Dataset:
    """The prompts, as columns `id`, `prompt`, `type`, and `is_safe`.

    Raises:
        CorpusError: for a missing column, or a label that is neither "safe" nor "unsafe".
    """
    rows = []
    for place, row in read_rows(path):
        label = text_column(place, row, "label")
        if label not in ("safe", "unsafe"):
            raise CorpusError(f"{place}: 'label' must be 'safe' or 'unsafe', got {label!r}.")
        columns = {column: text_column(place, row, column) for column in ("id", "prompt", "type")}
        rows.append({**columns, "is_safe": label == "safe"})
    return Dataset.from_list(rows)


def _prompt_id(completion_id: str) -> str:
    # The completions number the prompts of XSTest's second version "v2-1", ...; the prompts' own file says "1", ...
    return completion_id.removeprefix("v2-")


def load_xstest_completions(path: str, prompts: Dataset) -> Dataset:
    """The completions, joined to the prompts by id.

    Args:
        path: the completions' file.
        prompts: what `load_xstest_prompts` gave.

    Returns:
        Columns `id`, `prompt`, `type`, `is_safe` (of the prompt), `model`, `response`, `label`.

    Raises:
        CorpusError: for a missing column, an unknown label, or an id that the prompts don't have.
    """
    by_id = {row["id"]: row for row in prompts}
    rows = []
    for place, row in read_rows(path):
        label, key = text_column(place, row, "final_label"), _prompt_id(text_column(place, row, "id"))
        completion = optional_text_column(place, row, "completion")
        if completion is None:
            raise CorpusError(f"{place}: column 'completion' is missing.")
        if label not in _LABELS:
            raise CorpusError(f"{place}: 'final_label' must be one of {', '.join(_LABELS)}, got {label!r}.")
        if key not in by_id:
            raise CorpusError(f"{place}: id {key!r} is not among the prompts.")
        columns = {"model": text_column(place, row, "model"), "response": completion, "label": label}
        rows.append({**by_id[key], **columns})
    return Dataset.from_list(rows)
