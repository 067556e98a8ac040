"""Real KITTI frames through camera, BEV projection and the network's ground branch: the road seen from above."""

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cvloc_ros.geometry import SE2, GroundGrid, PinholeCamera, camera_extrinsics
from cvloc_ros.models.bev import ground_pixels
from cvloc_ros.models.preprocess import fit_image
from cvloc_ros.models.vote_flow import VoteFlow

pytestmark = pytest.mark.shared_data

HEIGHT = 1.65  # metres, as KITTI's sensor setup states it
NEAR, FAR = GroundGrid(60, 80, 0.1, 12.0), GroundGrid(160, 140, 0.1, 20.0)
STEP = 3  # frames: 3.6 m


def calibration(path: Path) -> dict[str, np.ndarray]:
    """Read a KITTI calibration file: lines of a name, a colon and numbers."""
    lines = (line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
    return {name: np.array([float(v) for v in text.split()]) for name, text in lines if name != "calib_time"}


def read(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


@dataclass
class Sequence:
    """The start of KITTI odometry 06, left grey camera, with its true poses."""

    root: Path
    camera: PinholeCamera
    T_base_camera: np.ndarray
    poses: np.ndarray

    @classmethod
    def open(cls, root: Path):
        P = np.fromstring((root / "calib.txt").read_text().splitlines()[0].split(":")[-1], sep=" ").reshape(3, 4)
        poses = np.tile(np.eye(4), (51, 1, 1))
        poses[:, :3] = np.loadtxt(root / "poses.txt")[:51].reshape(-1, 3, 4)
        height, width = read(root / "image_0/000000.png").shape[:2]
        # The vehicle moves along its x axis, which says how the camera sits on it: 1.2 degrees nose down.
        steps = np.linalg.inv(poses[:-1]) @ poses[1:]
        x, y, z = steps[:, :3, 3].sum(axis=0)
        mount = camera_extrinsics(height=HEIGHT, yaw=np.arctan2(x, z), pitch=np.arctan2(-y, z))
        return cls(root, PinholeCamera(width, height, P[:, :3]), mount, poses)

    def bev(self, k: int, grid: GroundGrid, *, fitted: bool = False):
        """Return the ground as frame k shows it, (rows, cols, 3), and where it is seen."""
        image, camera = read(self.root / f"image_0/{k:06d}.png"), self.camera
        if fitted:
            image, camera = fit_image(image, camera, self.T_base_camera, width=416, height=128)
        return sample_ground(image, camera, self.T_base_camera, grid)

    def motion(self, k: int, later: int) -> SE2:
        """Return the true pose of the vehicle at frame ``later`` as seen from frame k."""
        M = self.T_base_camera
        return SE2.from_matrix(M @ np.linalg.inv(self.poses[k]) @ self.poses[later] @ np.linalg.inv(M))


def sample_ground(image, camera, T_base_camera, grid):
    (pixels,), (visible,) = ground_pixels(camera, T_base_camera, grid)
    u, v = np.moveaxis((pixels + 1) / 2 * np.float32([camera.width, camera.height]) - np.float32(0.5), -1, 0)
    return cv2.remap(image, u, v, cv2.INTER_LINEAR), visible


@pytest.fixture(scope="module")
def kitti(shared_data) -> Path:
    if not (shared_data / "kitti/odometry_06/image_0").is_dir():
        pytest.skip(f"{shared_data / 'kitti/odometry_06'} is absent")
    return shared_data / "kitti"


@pytest.fixture(scope="module")
def sequence(kitti):
    return Sequence.open(kitti / "odometry_06")


@pytest.mark.parametrize("fitted", [False, True], ids=["as recorded", "as the network gets it"])
def test_the_ground_of_two_frames_agrees_at_the_true_motion_only(sequence, fitted):
    """Camera model, mount, height, scale and every sign: a wrong one moves the peak or flattens it."""
    shifts = np.arange(-1.5, 1.6, 0.25)
    along, across = np.zeros(len(shifts)), np.zeros(len(shifts))
    frames = range(0, 48, 3)
    for k in frames:
        earlier, _ = sequence.bev(k, FAR, fitted=fitted)
        later, visible = sequence.bev(k + STEP, NEAR, fitted=fitted)
        motion = sequence.motion(k, k + STEP)
        for i, shift in enumerate(shifts):
            along[i] += correlation(earlier, later, motion @ SE2(shift, 0, 0), visible) / len(frames)
            across[i] += correlation(earlier, later, motion @ SE2(0, shift, 0), visible) / len(frames)
    right = along[len(shifts) // 2]
    assert right > 0.6
    for displaced in (along[0], along[-1], across[0], across[-1]):
        assert right > displaced + 0.2
    assert abs(shifts[along.argmax()]) <= 0.25 and shifts[across.argmax()] == 0


def correlation(earlier, later, T_earlier_later, visible) -> float:
    """Correlate what is left without large differences of light: the later BEV, and the earlier one at its place."""
    cells = FAR.to_cells(T_earlier_later.apply(NEAR.centres())).astype(np.float32)
    moved = cv2.remap(earlier, cells[..., 1], cells[..., 0], cv2.INTER_LINEAR)
    details = [
        image[..., 0] - cv2.GaussianBlur(image[..., 0].astype(np.float32), (0, 0), 10) for image in (moved, later)
    ]
    return float(np.corrcoef(details[0][visible], details[1][visible])[0, 1])


@pytest.mark.parametrize("k", [0, 5, 10, 15, 20])
def test_the_kerb_of_a_straight_street_runs_forward(sequence, k):
    image, visible = sequence.bev(k, GroundGrid(140, 100, 0.1, 20.0))
    left = np.s_[:, :50]
    grey = cv2.GaussianBlur(image[..., 0].astype(np.float32), (0, 0), 1.5)
    down, right = cv2.Sobel(grey, cv2.CV_32F, 0, 1)[left], cv2.Sobel(grey, cv2.CV_32F, 1, 0)[left]
    strength = np.hypot(down, right)
    direction = (np.degrees(np.arctan2(down, right)) + 90) % 180 - 90  # of the edges' normals: 0 is sideways
    kerb = visible[left] & (strength > np.quantile(strength, 0.93)) & (np.abs(direction) < 25)
    order = direction[kerb].argsort()
    weight = strength[kerb][order].cumsum()
    median = direction[kerb][order][np.searchsorted(weight, weight[-1] / 2)]
    assert kerb.sum() > 200 and abs(median) < 1.5


def test_colour_frames_go_through_the_ground_branch(kitti):
    numbers = calibration(kitti / "raw_2011_09_26/calib_cam_to_cam.txt")
    width, height = (int(n) for n in numbers["S_rect_02"])
    camera = PinholeCamera(width, height, numbers["P_rect_02"].reshape(3, 4)[:, :3])
    assert camera.K[0, 0] == pytest.approx(721.5377)
    mount = camera_extrinsics(height=HEIGHT)
    torch.manual_seed(0)
    network = VoteFlow().eval()
    for path in sorted((kitti / "raw_rgb_frames").glob("*.png")):
        image = read(path)
        assert image.shape == (height, width, 3)
        fitted, fitted_camera = fit_image(image, camera, mount, width=416, height=128)
        config = network.config
        pixels, visible = ground_pixels(fitted_camera, mount, config.bev_samples, config.heights)
        nearest = config.bev_samples.centres()[..., 0][visible[0]].min()
        assert 4.5 < nearest < 7.5 and 0.5 < visible[0].mean() < 0.8  # the paper's grid sees 6.3 m and more
        tensor = torch.from_numpy(fitted).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            features = network.ground(tensor)
            coarse, fine, coarse_weight, fine_weight, _ = network.bev(
                *features, torch.from_numpy(pixels)[None], torch.from_numpy(visible)[None]
            )
        for descriptors, weight in ((coarse, coarse_weight), (fine, fine_weight)):
            seen = weight[0, 0] > 0
            assert torch.isfinite(descriptors).all() and seen.float().mean() > 0.5
            torch.testing.assert_close(descriptors.norm(dim=1), torch.ones_like(descriptors[:, 0]))


def test_pictures_to_look_at(kitti, sequence):
    """Images beside their ground seen from above, forward up, for a person to judge."""
    folder = os.environ.get("CVLOC_TEST_PICTURES")
    if not folder:
        pytest.skip("set CVLOC_TEST_PICTURES to a folder to get the pictures")
    numbers = calibration(kitti / "raw_2011_09_26/calib_cam_to_cam.txt")
    colour = read(kitti / "raw_rgb_frames/0000000000.png")
    camera = PinholeCamera(colour.shape[1], colour.shape[0], numbers["P_rect_02"].reshape(3, 4)[:, :3])
    grid = GroundGrid(375, 300, 0.08, 34.0)
    rows = []
    for image, its_camera in (
        (read(sequence.root / "image_0/000000.png"), sequence.camera),
        (read(sequence.root / "image_0/000020.png"), sequence.camera),
        (colour, camera),
    ):
        bev, visible = sample_ground(image, its_camera, sequence.T_base_camera, grid)
        bev[~visible] = 0
        rows.append(np.hstack([cv2.resize(image, (1242, 375)), bev]))
    Path(folder).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(Path(folder) / "kitti_bev.png"), np.vstack(rows)[..., ::-1])
