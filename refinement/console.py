"""A refinement on the terminal: each step's prompt, risk bars and efforts, then the answer, or a reply in its place."""

import re

from rich.console import Console, Group
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from refinement.trace import Refinement, Step

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
EFFORT_STYLES = {"Minor": "yellow", "Mild": "dark_orange", "Severe": "red"}


def show(refinement: Refinement, console: Console):
    """Print a refinement; text from prompts and models is printed as it is, never read as markup."""
    for number, step in enumerate(refinement.steps):
        console.print(_step_panel(step, "Prompt" if number == 0 else f"Rewrite {number}"))
    if not refinement.steps:
        return
    # An answer that is still unsafe is not shown by chance: who wants it asks for --json.
    if refinement.response is not None:
        title, style = ("Safe answer", "green") if refinement.converged else ("No safe answer was found", "red")
        console.print(Panel(_text(refinement.response), title=title, border_style=style))
    if not refinement.converged:
        place = refinement.steps.index(refinement.best)
        name = f"rewrite {place}" if place else "the prompt itself"
        console.print(Text(f"lowest risk reached: {refinement.best.max_risk:.2f}, at {name}", style="dim"))
    calls = refinement.calls
    spent = f"answers: {calls['target']} · rewrites drawn: {calls['refiner']} · {refinement.seconds:.1f} s"
    console.print(Text(spent, style="dim"))


def _text(text: str, style: str = "") -> Text:
    # A control character from a model must not drive the terminal.
    return Text(_CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text), style=style)


def _step_panel(step: Step, title: str) -> Panel:
    parts: list[Text | Table] = [_text(step.prompt, style="bold")]
    if step.note:
        parts.append(_text(step.note, style="italic"))
    if step.is_safe:
        parts.append(Text(f"safe: highest risk {step.max_risk:.2f}", style="green"))
    else:
        parts.append(_risk_bars(step))
    return Panel(Group(*parts), title=title, title_align="left")


def _risk_bars(step: Step) -> Table:
    table = Table.grid(padding=(0, 1))
    for category, effort in step.effort.items():
        style = EFFORT_STYLES[effort]
        bar = ProgressBar(total=1, completed=step.risk[category], width=24, complete_style=style, finished_style=style)
        spread = f"{step.risk[category]:.2f} ± {step.uncertainty[category]:.2f}"
        table.add_row(Text(category), bar, Text(spread), Text(effort, style=style))
    return table
