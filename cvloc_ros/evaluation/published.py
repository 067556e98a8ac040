"""What the literature reports by protocol, with where it was reported and what to know of it.

Percentages are recalls; position is mean and median in metres, heading mean and median in degrees. None: not given.
Unless a caveat says so, the method was trained on the data set's own training split.
"""

from __future__ import annotations

from dataclasses import dataclass

Pair = tuple[float | None, float | None]


@dataclass(frozen=True)
class Published:
    """One row.

    Attributes:
        method: its name.
        source: where the numbers are from.
        position: mean and median, metres.
        yaw: mean and median, degrees.
        recall: lateral, longitudinal within 1 m and heading within 1 degree, per cent.
        caveat: what to know before comparing.

    """

    method: str
    source: str
    position: Pair = (None, None)
    yaw: Pair = (None, None)
    recall: tuple[float | None, float | None, float | None] = (None, None, None)
    caveat: str = ""


_LM = "Shi and Li, CVPR 2022 (github.com/YujiaoShi/HighlyAccurate)"
_SLICE = "Lentsch et al., CVPR 2023"
_BOOST = "Shi et al., ICCV 2023 (github.com/YujiaoShi/Boosting3DoFAccuracy)"
_CCVPE = "Xia et al., TPAMI 2024 (github.com/tudelft-iv/CCVPE)"
_HC = "HC-Net, NeurIPS 2023 (github.com/xlwangDev/HC-Net)"
_FLOW = "dense-flow, NeurIPS 2023 (arXiv 2309.15556)"
_G2S = "G2SWeakly, ECCV 2024 (github.com/YujiaoShi/G2SWeakly)"
_FG2 = "FG2, CVPR 2025 (README of github.com/vita-epfl/FG2)"
_BEV = "BevSplat, NeurIPS 2025 (github.com/wangqww/BevSplat)"
_LOC2 = "Loc2, ICLR 2026 (github.com/vita-epfl/Loc2)"
_VIEW = "ViewBridge (arXiv 2508.10716), as tabulated by GeoSem-BEV"
_GEO = "GeoSem-BEV, 2026"
_FLOWG = "GeoFlow, CVPR 2026"

_PICKED = "its public code picks weights on the test split"
_SWAP = "lateral and longitudinal are printed swapped"
_FG2_NOTE = f"{_PICKED}; released weights reproduce it, training anew was reported not to"
_FORD_LM = f"unstable from epoch to epoch, says its author; {_PICKED}"
_WEAK = "weakly supervised; heading from its own first stage"
_NO_CODE = "no code to check it with"
_DEPTH = "needs monocular depth"
_ZE, _ZE_SOURCE, _ZE_NOTE = "Ze, Song and Shi", "arXiv 2606.08205", "π³ backbone, one to three images"

_KITTI_SAME = (
    Published("LM", _LM, (12.08, 11.42), (3.72, 2.83), (35.54, 5.22, None), _PICKED),
    Published("SliceMatch", _SLICE, (7.96, 4.39), (4.12, 3.65), (49.09, 15.19, None)),
    Published("Boosting", _BOOST, recall=(76.44, 23.54, 99.10)),
    Published("CCVPE", _CCVPE, (1.22, 0.62), (0.67, 0.54), (97.35, 77.13, None)),
    Published("HC-Net", _HC, (0.80, 0.50), (0.45, 0.33), (99.01, 92.20, None)),
    Published("dense-flow", _FLOW, (1.48, 0.47), (0.49, 0.30), (95.47, 87.89, 89.40), _PICKED),
    Published("G2SWeakly", _G2S, (6.81, 3.39), (0.33, 0.28), caveat=_WEAK),
    Published("FG2", _FG2, (0.75, 0.51), (0.93, 0.66), (95.81, 92.50, 67.27), _FG2_NOTE),
    Published("BevSplat", _BEV, (2.87, 2.06), (0.33, 0.28), (52.90, 35.62, None), _WEAK),
    Published("Loc2", _LOC2, (1.13, 0.77), (1.97, 1.43), caveat=f"{_DEPTH}; {_SWAP}"),
    Published("ViewBridge", _VIEW, (0.68, 0.46), (1.10, 0.72), (None, None, 61.77), _NO_CODE),
    Published("GS-ViewBridge", _GEO, (0.80, 0.54), (0.81, 0.57), caveat=_NO_CODE),
    Published("GeoFlow", _FLOWG, (0.98, 0.68), caveat="the heading is known"),
    Published(_ZE, _ZE_SOURCE, (0.73, None), (0.43, None), caveat=_ZE_NOTE),
)
_KITTI_CROSS = (
    Published("LM", _LM, (12.58, 12.11), (3.95, 3.03), (27.82, 5.75, None), _PICKED),
    Published("SliceMatch", _SLICE, (13.50, 9.77), (4.20, 6.61), (32.43, 8.30, None)),
    Published("Boosting", _BOOST, recall=(57.72, 14.15, 98.98)),
    Published("CCVPE", _CCVPE, (9.16, 3.33), (1.55, 0.84), (44.06, 23.08, None)),
    Published("HC-Net", _HC, (8.47, 4.57), (3.22, 1.63), (75.00, 58.93, None), "recalls do not fit its own median"),
    Published("dense-flow", _FLOW, (7.97, 3.52), (2.17, 1.21), (54.19, 23.10, 43.44), _PICKED),
    Published("G2SWeakly", _G2S, (12.15, 7.16), (0.33, 0.28), caveat=_WEAK),
    Published("FG2", _FG2, (7.31, 4.15), (3.62, 2.37), (37.89, 21.98, 23.03), _FG2_NOTE),
    Published(
        "PIDLoc", "PIDLoc, CVPR 2025 (by a summary of it)", (4.96, None), (0.40, None), (56.4, None, None), "also lidar"
    ),
    Published("BevSplat", _BEV, (6.20, 2.51), (0.33, 0.28), (51.45, 27.41, None), _WEAK),
    Published("Loc2", _LOC2, (5.60, 3.01), (3.32, 2.12), caveat=f"{_DEPTH}; {_SWAP}"),
    Published("ViewBridge", _VIEW, (6.70, 3.27), (3.15, 1.99), (None, None, 28.62), _NO_CODE),
    Published("GS-ViewBridge", _GEO, (5.88, 2.69), (3.64, 1.73), caveat=_NO_CODE),
    Published("GeoFlow", _FLOWG, (8.42, 5.60), recall=(36.36, None, None), caveat="the heading is known"),
    Published(_ZE, _ZE_SOURCE, (5.75, None), (0.52, None), caveat=_ZE_NOTE),
)


def _vigor(known: bool, same: bool) -> tuple[Published, ...]:
    columns = {(True, True): 0, (True, False): 1, (False, True): 2, (False, False): 3}
    rows: tuple[tuple[str, str, tuple[Pair | None, ...]], ...] = (
        ("CCVPE", _CCVPE, ((3.60, 1.36), (4.97, 1.68), (3.74, 1.42), (5.41, 1.89))),
        ("dense-flow", _FLOW, ((3.03, 0.97), (5.01, 2.42), (4.97, 1.90), (7.67, 3.67))),
        ("Boosting", _BOOST, ((4.12, 1.34), (5.16, 1.40), None, None)),
        ("HC-Net", _HC, ((2.65, 1.17), (3.35, 1.59), None, None)),
        ("FG2", _FG2, ((1.95, 1.08), (2.41, 1.37), (3.78, 1.70), (5.95, 2.40))),
        ("Loc2", _LOC2, (None, None, (3.94, 1.78), (4.23, 2.09))),
        ("BevSplat", _BEV, ((2.87, 1.58), (2.84, 1.36), None, None)),
        ("ViewBridge", _VIEW, (None, None, (3.08, 1.57), (3.79, 2.01))),
        ("GS-ViewBridge", _GEO, (None, None, (2.57, 1.57), (3.29, 2.04))),
        ("GeoFlow", _FLOWG, ((3.51, None), (4.62, None), None, None)),
        ("VIRD", "VIRD, CVPR 2026", (None, None, None, (4.61, 1.55))),
    )
    column = columns[known, same]
    yaws = {("dense-flow", 2): (11.20, 1.59), ("dense-flow", 3): (17.63, 2.94), ("ViewBridge", 2): (6.02, 1.20)}
    yaws |= {("ViewBridge", 3): (10.59, 2.04)}
    caveats = {"dense-flow": _PICKED, "Loc2": _DEPTH, "BevSplat": "weakly supervised"}
    caveats |= dict.fromkeys(("ViewBridge", "GS-ViewBridge"), _NO_CODE)
    if not known:
        caveats["FG2"] = "looks twice: turned by its first answer"
    return tuple(
        Published(
            method,
            source,
            pairs[column] or (None, None),
            yaws.get((method, column), (None, None)),
            caveat=caveats.get(method, ""),
        )
        for method, source, pairs in rows
        if pairs[column]
    )


def _oxford(test: int) -> tuple[Published, ...]:
    rows = (
        ("CVR", "Zhu et al., as tabulated by Xia et al.", ((1.88, 1.47), (2.64, 1.99), (2.35, 1.71))),
        ("MCC", "Xia et al., ECCV 2022", ((1.42, 1.10), (1.95, 1.33), (1.94, 1.29))),
        ("dense-flow", _FLOW, ((1.17, 0.72), (1.76, 0.97), (1.79, 0.92))),
    )
    caveat = "the streets of the tests are those of the training"
    picked = {"dense-flow": f"{caveat}; {_PICKED}"}
    return tuple(
        Published(method, source, pairs[test - 1], caveat=picked.get(method, caveat)) for method, source, pairs in rows
    )


PUBLISHED: dict[str, tuple[Published, ...]] = {
    "kitti-same": _KITTI_SAME,
    "kitti-cross": _KITTI_CROSS,
    "ford-log1": (
        Published("LM", _LM, (12.54, None), caveat=_FORD_LM),
        Published("dense-flow", _FLOW, (10.55, None), (1.43, 0.47), (None, None, 75.76), _PICKED),
    ),
    "ford-log2": (
        Published("LM", _LM, (12.01, 11.49), caveat=_FORD_LM),
        Published("dense-flow", _FLOW, (10.50, 9.40), (1.65, 1.03), (None, None, 48.99), _PICKED),
    ),
    "vigor-same": _vigor(True, True),
    "vigor-cross": _vigor(True, False),
    "vigor-same-unaligned": _vigor(False, True),
    "vigor-cross-unaligned": _vigor(False, False),
    **{f"oxford-test{test}": _oxford(test) for test in (1, 2, 3)},
}

CAVEATS: dict[str, str] = {
    "kitti-same": "95 % of these frames are 0.1 s from a training frame: this measures memory more than localization.",
    "kitti-cross": "A third of these frames are within 100 m of a training frame; see kitti-cross-clean.",
    "kitti-cross-clean": "Only frames over 100 m from all training frames. Published rows are on all of kitti-cross.",
    "ford": "The data set's poses are off by metres against the imagery (Ford/AVData issue 37).",
    "oxford": "The same streets as in training: this measures another season and light, not another place.",
    "vigor": "Corrected labels; the camera's height is not published and taken to be 2 m.",
}


def caveat_of(protocol: str) -> str:
    """Return what to know of a protocol; empty if there is nothing."""
    return CAVEATS.get(protocol) or CAVEATS.get(protocol.split("-")[0], "")
