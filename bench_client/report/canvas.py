"""The one module that knows matplotlib: gives figures to draw on, and their SVG.

matplotlib is an optional extra and slow to import, so that happens only when a figure is drawn. Nothing of a user's own
configuration of it, of the time or of chance is in the result: same input, same bytes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from io import StringIO
from typing import TYPE_CHECKING, Any, TypeAlias

from bench_client.errors import BenchError, not_installed
from bench_client.report.theme import stand_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes as MatplotlibAxes
    from matplotlib.figure import Figure as MatplotlibFigure

    Axes: TypeAlias = MatplotlibAxes
    Figure: TypeAlias = MatplotlibFigure

POINTS_PER_INCH = 72

_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names of keys are no formulas
    "font.family": ["DejaVu Sans"],
    "font.size": 12.5,
    "text.color": stand_in("ink"),
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.titlecolor": stand_in("ink"),
    "axes.labelsize": 12,
    "axes.labelcolor": stand_in("muted"),
    "axes.edgecolor": stand_in("axis"),
    "axes.facecolor": "none",
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.unicode_minus": True,
    "grid.color": stand_in("grid"),
    "grid.linewidth": 1.0,
    "xtick.color": stand_in("axis"),
    "xtick.labelcolor": stand_in("muted"),
    "xtick.labelsize": 12,
    "ytick.color": stand_in("axis"),
    "ytick.labelcolor": stand_in("muted"),
    "ytick.labelsize": 12,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 12,
    "legend.handlelength": 2.2,
    "legend.borderaxespad": 0.2,
    "figure.facecolor": "none",
    "hatch.linewidth": 1.4,
    "lines.linewidth": 2.2,
    "lines.solid_capstyle": "butt",
    "savefig.facecolor": "none",
}


def check_available() -> None:
    """Raise BenchError if there is no matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise BenchError(not_installed("matplotlib", "report")) from None


def draw(salt: str, width: float, height: float, onto: Callable[[Figure], None]) -> str:
    """Return what ``onto`` draws on a figure of that size (in points, as texts are), as matplotlib's SVG.

    ``salt`` makes the ids of its parts. Raises BenchError when there is no matplotlib.
    """
    check_available()
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name in a script that the measuring font lacks is the browser's to draw
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_STYLE, "svg.hashsalt": salt})
        layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, wspace=0.04, hspace=0.06)
        figure = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH), layout=layout)
        onto(figure)
        written = StringIO()
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(written, metadata={"Date": None})
    return written.getvalue()
