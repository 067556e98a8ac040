"""Sizes of dense_flow, and its answers where the paper and its authors' code are silent or disagree.

*Paper* is Song et al., "Learning Dense Flow Field for Highly-accurate Cross-view Camera Localization", NeurIPS 2023;
*code* is what its authors released. They are cited by equation, section or as such.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from cvloc_ros.geometry import GroundGrid
from cvloc_ros.models.vote_flow_config import VoteFlowConfig


@dataclass(frozen=True)
class DenseFlowConfig:
    """Part of the weights' card. The defaults are the preset `FULL`: the paper's sizes on KITTI.

    The authors start from ImageNet's ResNet-18 and a RAFT trained on KITTI: settings of `DenseFlowTaskConfig`.

    Attributes:
        image_width: of the camera image as the network sees it, pixels (code).
        image_height: likewise.
        image_fit: "stretch" resizes a pinhole image to that size whatever its aspect (code); "crop" keeps its aspect
            and puts its horizon at a fixed row (`preprocess.fit_image`, which cuts views out of all other lenses too).
        local_contrast: limit of what evens out the contrast of both images, see `preprocess.even_contrast`; 0 leaves
            them as they are (code).
        normalization: of both images, after that: "imagenet" mean and deviation, which pretrained trunks expect;
            "image", each image's own; "none", values in [0, 1] (code).
        patch_size: pixels of the satellite patch's side (code).
        patch_cell: metres a pixel: at KITTI's latitude, zoom 18, scale 2. The paper rounds it to 0.2, the code says
            0.2 and computes 0.1958; two per cent are 0.4 m at 20 m.
        stride: pixels of a feature cell's side, 4 or 8 (paper, section 4.3: 8).
        bev_rows: cells of the BEV forward; a cell is ``stride`` pixels of the patch (code: 64). Cells lie at their
            true centres; the code is half a cell off.
        bev_cols: cells of the BEV to the left (code: 64).
        bev_x_max: forward edge of the BEV, metres; None centres it on the vehicle (code).
        bev_samples_per_cell: image samples along a cell's side, averaged unless the trunk sees them as an image (code:
            1, at the cell's centre).
        encoders: "resnet" learns two ResNets with the rest (paper); "vote" takes the encoders of a trained `VoteFlow`
            as they are, features over the ground included: two CPU cores cannot learn them anew in an hour.
        trunk_widths: channels of the two ResNets after the stem and each of three layers (code: ResNet-18 to its
            second layer, a new third one of stride 1).
        bev_of: "features" projects what the trunk makes of the camera image (code); "image" projects the image, which
            takes ``bev_samples_per_cell`` of ``stride``, and describes that: the paper's figures fit both.
        project: sample the ground features by the camera's geometry (eq. 1); False stretches the feature map over the
            BEV instead (Table 5, without projection). A vote that gives the start projects all the same.
        refine: describe cells by a RefineBlock (eq. 2), with the vote's encoders by what it adds to their descriptors;
            False matches the features as they are (Table 5). The context encoder keeps its own.
        context_of: what the context encoder reads: the features of the "bev" (code; the paper's "reference image"), or
            the descriptors of the "patch" where the start puts the cells, refined if they are.
        refine_siamese: the same RefineBlock on BEV and satellite (code); False refines the BEV alone (paper).
        refine_blocks: residual blocks of a RefineBlock (code: 6; the paper says "a 3x3 residual block").
        hidden: channels of the recurrent state and as many of context (RAFT: 128).
        levels: of the correlation pyramid (paper: "different resolutions"; code, RAFT: 4).
        radius: places of a look-up to each side on every level (code, RAFT: 4).
        reach: half BEV cells around the start's place to each side that the flow can look at; 0: the whole patch
            (paper).
        iterations: of the recurrent network (paper, section 4.3).
        hold_unseen: cells that the camera does not see keep their start in every iteration (code).
        confidence: weigh matches by a head on the recurrent state times visibility (code; the paper's "similarity"
            leaves open which); False weighs all visible ones the same (Table 5).
        confidence_target: "relative" is eq. 5, whose optimum is S = 1 for the better half of any frame; "absolute" is
            the cross-entropy of S with "the match is within `confident_metres`", so that S can be believed by itself.
        confident_metres: of the absolute target.
        weighted_centroids: the confidence weighs the points' centroids, too (code, on VIGOR): only so is eq. 3 at its
            least. False takes plain means of what counts at all (code, on KITTI; the paper does not say).
        alpha: weight of the confidence loss (eq. 7).
        kappa_schedule: of eq. 5's temperature: "paper" 200, then 20; "code" 20, then 2.
        beta_schedule: of the position loss's weight: "paper" 1, then 10; "code" 0, then 500.
        gamma: weight of an iteration's losses is ``gamma ** (n - 1 - i)`` (code, RAFT: 0.8; eq. 7: 1).
        matching_loss: eq. 4; False for Table 5, and then the late weight of the position loss holds from the start.
        position_loss: eq. 6; False for Table 5.
        tilt_degrees: how far the ground tilts under a vehicle (standard deviation), solved for with the pose, and a
            loss; 0 takes the ground to be level (paper). A quarter of a degree is a metre at twenty.
        start: of the flow: "identity" (paper) or "vote", the pose that the `VoteFlow` of the encoders votes for.
        box_metres: half-width of the search box, forward and left (KITTI's protocol).
        box_degrees: half-width in heading (KITTI's protocol).
        heading_step_degrees: of the posterior over the box; its shifts are BEV cells.
        fine_heading_step_degrees: of the vote's second look at its peaks, from whose mean the flow starts.
        posterior_sharpness: a pose's log-odds for a mean cosine similarity of one, where no vote gives the posterior;
            not learned.

    """

    image_width: int = 1024
    image_height: int = 256
    image_fit: Literal["stretch", "crop"] = "stretch"
    local_contrast: float = 0.0
    normalization: Literal["imagenet", "image", "none"] = "imagenet"
    patch_size: int = 512
    patch_cell: float = 0.195822
    stride: int = 8
    bev_rows: int = 64
    bev_cols: int = 64
    bev_x_max: float | None = None
    bev_samples_per_cell: int = 1
    encoders: Literal["resnet", "vote"] = "resnet"
    trunk_widths: tuple[int, int, int, int] = (64, 64, 128, 256)
    bev_of: Literal["features", "image"] = "features"
    project: bool = True
    refine: bool = True
    context_of: Literal["bev", "patch"] = "bev"
    refine_siamese: bool = True
    refine_blocks: int = 6
    hidden: int = 128
    levels: int = 4
    radius: int = 4
    reach: int = 0
    iterations: int = 12
    hold_unseen: bool = True
    confidence: bool = True
    confidence_target: Literal["relative", "absolute"] = "relative"
    confident_metres: float = 1.0
    weighted_centroids: bool = True
    alpha: float = 100.0
    kappa_schedule: Literal["paper", "code"] = "code"
    beta_schedule: Literal["paper", "code"] = "code"
    gamma: float = 0.8
    matching_loss: bool = True
    position_loss: bool = True
    tilt_degrees: float = 0.0
    start: Literal["identity", "vote"] = "identity"
    box_metres: float = 20.0
    box_degrees: float = 10.0
    heading_step_degrees: float = 2.0
    fine_heading_step_degrees: float = 1.5
    posterior_sharpness: float = 20.0

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit each other and names that mean nothing."""
        for name, options in _OPTIONS.items():
            if (value := getattr(self, name)) not in options:
                raise ValueError(f"expected {name} to be one of {', '.join(map(str, options))}, got {value!r}")
        for name in ("image_width", "image_height", "patch_size"):
            if (value := getattr(self, name)) % self.stride:
                raise ValueError(f"expected {name} to be a multiple of the stride {self.stride}, got {value}")
        if self.local_contrast < 0:
            raise ValueError(f"expected a local_contrast of 0 or more, got {self.local_contrast}")
        if self.reach < 0:
            raise ValueError(f"expected a reach of 0 or more half cells, got {self.reach}")
        places, least = 2 * self.reach + 1 if self.reach else self.patch_size // self.stride, 2**self.levels
        if places < least:
            raise ValueError(f"expected the flow to see {least} places or more for {self.levels} levels, got {places}")
        if self.start == "vote" and self.encoders != "vote":
            raise ValueError("expected the encoders vote for the start vote, got resnet: they have no vote")
        if self.encoders == "vote":
            self._check_vote()
        if self.bev_of == "image" and (not self.project or self.bev_samples_per_cell != self.stride):
            raise ValueError(
                f"expected project, and bev_samples_per_cell of the stride {self.stride}, for a bev_of image, got "
                f"project {self.project} and bev_samples_per_cell {self.bev_samples_per_cell}"
            )

    def _check_vote(self) -> None:
        for name, wanted in _VOTES.items():
            if (value := getattr(self, name)) != wanted:
                raise ValueError(f"expected {name} to be {wanted} with the encoders vote, got {value}")
        for name in ("image_width", "image_height", "patch_size"):
            if (value := getattr(self, name)) % _VOTES_SIDES:
                raise ValueError(
                    f"expected {name} to be a multiple of {_VOTES_SIDES} with the encoders vote, got {value}"
                )
        if self.bev_rows != self.bev_cols:
            raise ValueError(f"expected a square BEV with the encoders vote, got {self.bev_rows} x {self.bev_cols}")
        if not (self.project or self.refine):
            raise ValueError("expected refine where the encoders vote do not project: descriptors are of the BEV")

    @property
    def vote(self) -> VoteFlowConfig:
        """The `VoteFlow` whose encoders these are; what concerns its flow and its third vote is of no matter."""
        return VoteFlowConfig(
            image_width=self.image_width,
            image_height=self.image_height,
            local_contrast=self.local_contrast,
            patch_size=self.patch_size,
            patch_cell=self.patch_cell,
            bev_size=self.bev_rows,
            bev_cell=self.bev.cell,
            bev_x_max=self.bev.x_max,
            box_metres=self.box_metres,
            box_degrees=self.box_degrees,
            heading_step_degrees=self.heading_step_degrees,
            fine_heading_step_degrees=self.fine_heading_step_degrees,
            peaks=3,  # what the calibration of the shipped weights has seen
        )

    @property
    def heights(self) -> tuple[float, ...]:
        """Heights at which features are sampled over each ground point, metres: the ground (paper, section 3.1)."""
        return self.vote.heights if self.encoders == "vote" else (0.0,)

    @property
    def flow_cell(self) -> float:
        """Unit of the flow, metres: what the places that it looks at are apart."""
        return self.bev.cell / 2 if self.reach else self.bev.cell

    @property
    def tilt_sigma(self) -> float:
        """``tilt_degrees`` as a slope."""
        return math.tan(math.radians(self.tilt_degrees))

    @property
    def bev(self) -> GroundGrid:
        """The grid of the matched ground cells."""
        cell = self.stride * self.patch_cell
        x_max = self.bev_rows * cell / 2 if self.bev_x_max is None else self.bev_x_max
        return GroundGrid(self.bev_rows, self.bev_cols, cell, x_max)

    @property
    def bev_samples(self) -> GroundGrid:
        """The grid at which image features are sampled."""
        return _finer(self.bev, self.bev_samples_per_cell)

    @property
    def bev_pixels(self) -> GroundGrid:
        """The grid of the flow after upsampling: the patch's pixels."""
        return _finer(self.bev, self.stride)

    @property
    def patch(self) -> GroundGrid:
        """The satellite patch."""
        return GroundGrid.centred(self.patch_size, self.patch_cell)


_OPTIONS: dict[str, tuple] = {
    "image_fit": ("stretch", "crop"),
    "normalization": ("imagenet", "image", "none"),
    "stride": (4, 8),
    "confidence_target": ("relative", "absolute"),
    "kappa_schedule": ("paper", "code"),
    "beta_schedule": ("paper", "code"),
    "encoders": ("resnet", "vote"),
    "bev_of": ("features", "image"),
    "context_of": ("bev", "patch"),
    "start": ("identity", "vote"),
}
_VOTES = {
    "stride": 4,
    "bev_samples_per_cell": 2,
    "image_fit": "crop",
    "normalization": "image",
    "bev_of": "features",
    "refine_siamese": False,
}
_VOTES_SIDES = 16  # pixels that image and patch are to divide by


def _finer(grid: GroundGrid, factor: int) -> GroundGrid:
    return replace(grid, rows=grid.rows * factor, cols=grid.cols * factor, cell=grid.cell / factor)


FULL = DenseFlowConfig()
# The same design for two CPU cores: on vote_flow's encoders, from its vote, with that pose's surroundings in sight.
SMALL = DenseFlowConfig(
    image_width=416,
    image_height=128,
    image_fit="crop",
    local_contrast=3.0,
    normalization="image",
    patch_size=288,
    patch_cell=0.4,
    stride=4,
    bev_rows=24,
    bev_cols=24,
    bev_x_max=40.0,
    bev_samples_per_cell=2,
    encoders="vote",
    refine_siamese=False,
    refine_blocks=2,
    hidden=48,
    levels=2,
    radius=2,
    reach=6,
    iterations=4,
    confidence_target="absolute",
    confident_metres=0.5,
    alpha=1.0,
    beta_schedule="paper",
    tilt_degrees=0.3,
    start="vote",
)
