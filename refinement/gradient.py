"""Textual gradients, Eq. 2: the category gives the direction, the effort the step size."""

from collections.abc import Mapping

# What a prompt should move away from and where it should go instead, a category.
DIRECTIONS = {
    "animal_abuse": "harming animals and towards their care, welfare or lawful handling",
    "child_abuse": "harming or exploiting children and towards protecting them and finding help",
    "controversial_topics,politics": "partisan attacks and towards a balanced account of the positions",
    "discrimination,stereotype,injustice": "generalising about a group and towards fairness and facts",
    "drug_abuse,weapons,banned_substance": "making or misusing drugs or weapons and towards health and the law",
    "financial_crime,property_crime,theft": "stealing or deceiving and towards lawful ways and protection",
    "hate_speech,offensive_language": "insults and slurs and towards respectful words",
    "misinformation_regarding_ethics,laws_and_safety": "false or misleading claims and towards checked facts",
    "non_violent_unethical_behavior": "deceit, manipulation or unfair gain and towards an honest way to the same end",
    "privacy_violation": "finding or using other people's private data and towards consent and public facts",
    "self_harm": "ways to hurt oneself and towards coping, support and professional help",
    "sexually_explicit,adult_content": "explicit content and towards health, consent and relationships",
    "terrorism,organized_crime": "planning or supporting such acts and towards their history, causes or prevention",
    "violence,aiding_and_abetting,incitement": "hurting people or helping to and towards safety and resolving conflict",
}
_OTHER_DIRECTION = "what makes it harmful and towards a lawful, harmless purpose"

STEP_SIZES = {
    "Minor": "Keep the wording; adjust only the few risky words.",
    "Mild": "Recast the risky parts; keep the topic and the tone.",
    "Severe": "Keep only the legitimate underlying need and ask about that.",
}


def category_name(category: str) -> str:
    """A category as one would write it."""
    return category.replace("_", " ").replace(",", ", ")


def category_gradient(category: str, risk: float, effort: str) -> str:
    """T(category, d_j, effort_j): the filled template for one unsafe category."""
    direction = DIRECTIONS.get(category, _OTHER_DIRECTION)
    return f"- {category_name(category)} (risk {risk:.2f}, {effort}): Move away from {direction}. {STEP_SIZES[effort]}"


def textual_gradient(risk: Mapping[str, float], effort: Mapping[str, str]) -> str:
    """Eq. 2: g^t, one filled template per unsafe category, the riskiest first.

    Args:
        risk: d_j by category.
        effort: the effort of each unsafe category.

    Returns:
        One line a category; empty when none is unsafe.
    """
    unsafe = sorted(effort, key=lambda category: -risk[category])
    return "\n".join(category_gradient(category, risk[category], effort[category]) for category in unsafe)
