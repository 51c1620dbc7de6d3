"""The distribution of a risk, d_j ~ Beta(α_j, β_j), and what is read off it: spread, quantiles, what τ is held against.

Copied to the Hub beside `modeling_lance.py`, so it imports only torch and the configuration.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .configuration_lance import check_threshold

_QUANTILES_AT_ONCE = 512  # of Betas: on their grids some 100 MB


def beta_std(alpha: Tensor, beta: Tensor) -> Tensor:
    """Standard deviation of Beta(alpha, beta), elementwise: the detector's own uncertainty."""
    total = alpha + beta
    return (alpha * beta / (total + 1)).sqrt() / total


def beta_quantile(alpha: Tensor, beta: Tensor, probability: float, points: int = 4096) -> Tensor:
    """Quantile of Beta(alpha, beta), elementwise, by integrating its density over a grid in logit space.

    Torch has no inverse of the incomplete beta function; on this grid the error stays below 1e-4.

    Args:
        alpha: of any shape, positive.
        beta: of the same shape.
        probability: the level, in (0, 1).
        points: the grid's size.
    """
    parts = zip(alpha.flatten().split(_QUANTILES_AT_ONCE), beta.flatten().split(_QUANTILES_AT_ONCE), strict=True)
    return torch.cat([_quantile_on_grid(*part, probability, points) for part in parts]).reshape(alpha.shape)


def _quantile_on_grid(alpha: Tensor, beta: Tensor, probability: float, points: int) -> Tensor:
    alpha, beta = alpha.double().unsqueeze(-1), beta.double().unsqueeze(-1)
    # In u = logit(d) the density is d^alpha (1 - d)^beta, with exponential tails of slope alpha and beta. A grid spaced
    # as sinh is fine at the mode and still reaches to where e^-40 is left.
    mode, width = alpha.log() - beta.log(), (1 / alpha + 1 / beta).sqrt()
    reach = torch.asinh((40 / torch.minimum(alpha, beta) + 40 * width) / width)
    unit = torch.linspace(-1, 1, points, dtype=torch.float64, device=alpha.device) * reach  # (..., points)
    grid = mode + width * unit.sinh()
    log_density = alpha * functional.logsigmoid(grid) + beta * functional.logsigmoid(-grid) + unit.cosh().log()
    density = (log_density - log_density.amax(-1, keepdim=True)).exp()
    mass = torch.cumulative_trapezoid(density, dim=-1)  # (..., points - 1)
    target = probability * mass[..., -1:]
    index = torch.searchsorted(mass, target).clamp(1, points - 2)
    below, above = mass.gather(-1, index - 1), mass.gather(-1, index)
    share = ((target - below) / (above - below)).clamp(0, 1)
    logit = torch.lerp(grid.gather(-1, index), grid.gather(-1, index + 1), share)
    return logit.squeeze(-1).sigmoid().float()


def decisive_risk(alpha: Tensor, beta: Tensor, uncertainty: float | None) -> Tensor:
    """What is held against τ, in the shape of α: the mean, or with `uncertainty` the interval's upper end."""
    mean = alpha / (alpha + beta)
    if uncertainty is None:
        return mean
    # The mean of a skewed Beta can lie above its interval; the risk counts as no lower for that.
    return mean.maximum(beta_quantile(alpha, beta, (1 + uncertainty) / 2))


@dataclass(frozen=True)
class RiskDistribution:
    """What the detector says of one prompt-response pair.

    Attributes:
        mean: d_j by category name, in (0, 1).
        std: the standard deviation of each category's Beta.
        alpha: the Beta's first parameter by category.
        beta: its second.
        effort: `"Minor"`, `"Mild"` or `"Severe"` for each category above its τ, the riskiest first.
        is_safe: whether no category is above its τ.
    """

    mean: dict[str, float]
    std: dict[str, float]
    alpha: dict[str, float]
    beta: dict[str, float]
    effort: dict[str, str]
    is_safe: bool

    @property
    def max_risk(self) -> float:
        """max_j d_j over all categories, those switched off among them."""
        return max(self.mean.values())

    def interval(self, level: float = 0.9) -> dict[str, tuple[float, float]]:
        """The central interval that holds `level` of each category's Beta, as (lower, upper).

        Raises:
            ValueError: for a level outside (0, 1).
        """
        check_threshold("level", level)
        alpha, beta = torch.tensor(list(self.alpha.values())), torch.tensor(list(self.beta.values()))
        lower = beta_quantile(alpha, beta, (1 - level) / 2).tolist()
        upper = beta_quantile(alpha, beta, (1 + level) / 2).tolist()
        return dict(zip(self.mean, zip(lower, upper, strict=True), strict=True))
