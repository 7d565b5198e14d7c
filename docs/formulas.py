r"""The step of every attack as LaTeX, for its page; what the symbols mean stands in the docstring below it.

``\Pi`` projects on the L-inf ball around ``x`` and on [0, 1].
"""

from __future__ import annotations

_START = r"x_0 = \Pi\,(x + u), \quad u \sim \mathcal{U}(-\varepsilon, \varepsilon)"
_SIGN = r"x_{t+1} = \Pi\,\bigl(x_t + \alpha\,\operatorname{sign} \nabla_x L_t(f(x_t), y)\bigr)"
_ALONG = r"x_{t+1} = \Pi\,\bigl(x_t + \alpha\,\operatorname{sign} g_{t+1}\bigr)"
_QUANTIZED = (
    r"q \leftarrow \operatorname{clamp}\bigl(q + \operatorname{sign} \nabla_q \left[L(f(x'), y) - "
    r"\lambda\,(1 - \mathrm{SSIM}(x, x'))\right],\, q_{\min},\, q_{\max}\bigr)"
)

FORMULAS: dict[str, tuple[str, ...]] = {
    "gn": (r"x' = \operatorname{clamp}(x + \sigma n, 0, 1), \quad n \sim \mathcal{N}(0, 1)",),
    "uniform": (r"x' = \operatorname{clamp}(x + \varepsilon u, 0, 1), \quad u \sim \mathcal{U}(-1, 1)",),
    "smooth_noise": (
        r"x' = \operatorname{clamp}\bigl(x + \varepsilon\,\operatorname{sign}(W * n), 0, 1\bigr), \quad n \sim \mathcal{N}(0, 1)",
    ),
    "fgsm": (
        r"x' = \operatorname{clamp}\bigl(x + \varepsilon\,\operatorname{sign} \nabla_x L(f(x), y), 0, 1\bigr)",
    ),
    "bim": (r"x_0 = x, \quad " + _SIGN.replace("L_t", "L"),),
    "pgd": (_START, _SIGN.replace("L_t", "L")),
    "mifgsm": (r"g_{t+1} = \mu\,g_t + \frac{\nabla_x L}{\lVert \nabla_x L \rVert_1}", _ALONG),
    "smooth": (r"g_{t+1} = \mu\,g_t + \frac{W * \nabla_x L}{\lVert W * \nabla_x L \rVert_1}", _ALONG),
    "segpgd": (
        r"L_t = \frac{1}{N} \sum_j w_j\,\mathrm{CE}_j, \quad w_j = \begin{cases} 1 - \lambda_t & \text{where } "
        r"\operatorname{argmax} f(x)_j = y_j \\ \lambda_t & \text{elsewhere} \end{cases}, \quad \lambda_t = \frac{t - 1}{2T}",
        _SIGN,
    ),
    "cospgd": (
        r"L = \frac{1}{N} \sum_j w_j\,\mathrm{CE}_j, \quad w_j = \cos\bigl(p_j, \mathrm{onehot}(y_j)\bigr) = "
        r"\frac{p_{j, y_j}}{\lVert p_j \rVert_2}",
        _SIGN.replace("L_t", "L"),
    ),
    "apgd": (
        r"z = \Pi\,\bigl(x_t + \eta\,\operatorname{sign} \nabla_x L\bigr)",
        r"x_{t+1} = \Pi\,\bigl(x_t + 0.75\,(z - x_t) + 0.25\,(x_t - x_{t-1})\bigr)",
    ),
    "square": (
        r"x' = \operatorname{clamp}(x + \varepsilon s, 0, 1) \text{ in one random box}, \quad s \in \{-1, 1\}^C",
        r"x_{t+1} = \begin{cases} x' & \text{where } L(f(x'), y) > L(f(x_t), y) \\ x_t & \text{elsewhere} \end{cases}",
    ),
    "vafa": (
        r"x'(q) = \operatorname{clamp}\left(\frac{\mathrm{IDCT}(q\,\varphi(u)) + 128}{255}, 0, 1\right), \quad "
        r"u = \frac{\mathrm{DCT}(255\,x - 128)}{q}",
        _QUANTIZED,
    ),
    "vafa2d": (
        r"x'(q) = \operatorname{clamp}\left(\frac{\mathrm{IDCT}_2(q\,\varphi(u)) + 128}{255}, 0, 1\right), \quad "
        r"u = \frac{\mathrm{DCT}_2(255\,x - 128)}{q}",
        _QUANTIZED,
    ),
    "sa2": (
        r"x'(\xi) = \operatorname{clamp}\left(\mathrm{IDCT}\left(\mathrm{DCT}\left(x - \tfrac{1}{2}\right) \xi\right) + "
        r"\tfrac{1}{2}, 0, 1\right), \quad \xi_0 \sim \mathcal{U}[1 - \rho, 1 + \rho]",
        r"\xi \leftarrow \operatorname{clamp}\bigl(\xi + \beta\,\operatorname{sign} \nabla_\xi \left[\lambda_L L(f(x'), y) - "
        r"\lambda_S (1 - \mathrm{SSIM}(x, x'))\right],\, 1 - \rho,\, 1 + \rho\bigr)",
    ),
    "keyed_mark": (
        r"g_{t+1} = \mu\,g_t + \frac{B * \nabla_x L}{\lVert B * \nabla_x L \rVert_1}",
        _ALONG,
    ),
    "annealed": (
        r"g_{t+1} = \mu\,g_t + \frac{\nabla_x L}{\lVert \nabla_x L \rVert_1}, \quad \alpha_t = "
        r"\frac{\alpha}{2}\left(1 + \cos \frac{\pi t}{T}\right)",
        _ALONG.replace(r"\alpha", r"\alpha_t"),
    ),
    "ensemble": (
        r"x'_i = x_i^{(m^*)}, \quad m^* = \operatorname{argmin}_{m = 1..5} \mathrm{Dice}\bigl(f(x_i^{(m)}), y_i\bigr)",
    ),
    "ensemble2": (
        r"x'_i = x_i^{(m^*)}, \quad m^* = \operatorname{argmin}_{m = 1..6} \mathrm{Dice}\bigl(f(x_i^{(m)}), y_i\bigr)",
    ),
}
"""Name of an attack to its displayed formulas, in order."""


def display(name: str) -> str:
    """Markdown of an attack's formulas."""
    return "\n\n".join(f"$$\n{formula}\n$$" for formula in FORMULAS[name])
