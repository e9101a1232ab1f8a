"""Curves with a name, whose parameters can be started from the data: the self-starting forms of nonlinear models."""

from __future__ import annotations

from typing import NamedTuple


class Form(NamedTuple):
    """A curve with a name: what it takes, inputs first, and what it is."""

    inputs: tuple[str, ...]
    parameters: tuple[str, ...]
    text: str


FORMS: dict[str, Form] = {
    "SSasymp": Form(("input",), ("Asym", "R0", "lrc"), "Asym + (R0 - Asym) * exp(-exp(lrc) * input)"),
    "SSasympOff": Form(("input",), ("Asym", "lrc", "c0"), "Asym * (1 - exp(-exp(lrc) * (input - c0)))"),
    "SSasympOrig": Form(("input",), ("Asym", "lrc"), "Asym * (1 - exp(-exp(lrc) * input))"),
    "SSbiexp": Form(
        ("input",), ("A1", "lrc1", "A2", "lrc2"), "A1 * exp(-exp(lrc1) * input) + A2 * exp(-exp(lrc2) * input)"
    ),
    "SSfol": Form(
        ("Dose", "input"),
        ("lKe", "lKa", "lCl"),
        "Dose * exp(lKe + lKa - lCl) * (exp(-exp(lKe) * input) - exp(-exp(lKa) * input)) / (exp(lKa) - exp(lKe))",
    ),
    "SSfpl": Form(("input",), ("A", "B", "xmid", "scal"), "A + (B - A) / (1 + exp((xmid - input) / scal))"),
    "SSgompertz": Form(("x",), ("Asym", "b2", "b3"), "Asym * exp(-b2 * b3^x)"),
    "SSlogis": Form(("input",), ("Asym", "xmid", "scal"), "Asym / (1 + exp((xmid - input) / scal))"),
    "SSmicmen": Form(("input",), ("Vm", "K"), "Vm * input / (K + input)"),
    "SSweibull": Form(("x",), ("Asym", "Drop", "lrc", "pwr"), "Asym - Drop * exp(-exp(lrc) * x^pwr)"),
}
"""The self-starting forms of Pinheiro & Bates (2000, appendix C)."""
