"""Imagery of all kinds around one place, coded so that a patch tells where it was cut."""

import numpy as np
import rasterio
from rasterio.transform import Affine
from tile_server import LEVELS_PER_METRE, TO_WGS84, place_picture, place_tile, tile_bounds

from cvloc_ros.geometry import SE2, GroundGrid, LocalFrame, meters_per_pixel
from cvloc_ros.imagery import SatelliteMap
from cvloc_ros.imagery.tiles import tile_positions

VIENNA = LocalFrame(48.2, 16.3)
GRID = GroundGrid.centred(50, 0.4)
POSES = (SE2(0, 0, 0), SE2(3.21, -5.43, 0.7), SE2(-4.05, 2.22, -2.5))


def assert_in_place(imagery, *, tolerance=0.05, cell=0.4):
    opened = SatelliteMap.open(imagery, VIENNA, cell=cell)
    for pose in POSES:
        patch = opened.patch(pose, GRID)
        assert patch.covered == 1.0, opened.problem
        seen = (patch.image[..., :2].astype(float) - 128) / LEVELS_PER_METRE
        error = seen - pose.apply(GRID.centres())
        assert np.abs(error.mean(axis=(0, 1))).max() < tolerance
        for corner in (error[:12, :12], error[:12, -12:], error[-12:, :12], error[-12:, -12:]):
            assert np.abs(corner.mean(axis=(0, 1))).max() < 3 * tolerance  # neither turned nor scaled
    return opened


def tiles_around(zoom, reach=1):
    x, y = map(int, tile_positions(VIENNA, np.zeros(2), zoom))
    return [(zoom, x + i, y + j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)]


def write_folder(folder, *, zoom=18, south_first=False, suffix=".png", size=256):
    for z, x, y in tiles_around(zoom):
        row = 2**z - 1 - y if south_first else y
        path = folder / str(z) / str(x) / f"{row}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(place_tile(VIENNA, z, x, y, size, suffix))
    return folder


def place_raster(path, **profile):
    """Write a Web Mercator raster of 120 m around the datum."""
    (z, west_x, north_y), (_, east_x, south_y) = tiles_around(18, 1)[0], tiles_around(18, 1)[-1]
    west, _, _, north = tile_bounds(z, west_x, north_y)
    _, south, east, _ = tile_bounds(z, east_x, south_y)
    picture = place_picture(VIENNA, (west, south, east, north), 768)
    pixel = (east - west) / 768
    profile = {"driver": "GTiff", "photometric": "RGB", **profile}
    with rasterio.open(
        path, "w", width=768, height=768, count=3, dtype="uint8", crs="EPSG:3857",
        transform=Affine(pixel, 0, west, 0, -pixel, north), **profile,
    ) as dataset:  # fmt: skip
        dataset.write(np.moveaxis(picture, -1, 0))
    return str(path)


def degrees_around():
    """Return west, south, east, north of `tiles_around` in degrees."""
    corners = [tile_bounds(*tile) for tile in (tiles_around(18)[0], tiles_around(18)[-1])]
    west, south = TO_WGS84.transform(corners[0][0], corners[1][1])
    east, north = TO_WGS84.transform(corners[1][2], corners[0][3])
    return west, south, east, north


def gdal_description(server):
    edge = 20037508.342789244
    return (
        f'<GDAL_WMS><Service name="TMS"><ServerUrl>{server.url}/xyz/${{z}}/${{x}}/${{y}}.png?key=1</ServerUrl>'
        f"</Service><DataWindow><UpperLeftX>{-edge}</UpperLeftX><UpperLeftY>{edge}</UpperLeftY><LowerRightX>{edge}"
        f"</LowerRightX><LowerRightY>{-edge}</LowerRightY><TileLevel>18</TileLevel><TileCountX>1</TileCountX>"
        "<TileCountY>1</TileCountY><YOrigin>top</YOrigin></DataWindow><Projection>EPSG:3857</Projection>"
        "<BlockSizeX>256</BlockSizeX><BlockSizeY>256</BlockSizeY><BandsCount>3</BandsCount></GDAL_WMS>"
    )


def wmts_capabilities(server):
    """Return what a WMTS says of itself, with the deepest zoom only."""
    edge = 20037508.342789244
    scale = meters_per_pixel(0, 18) / 0.00028
    return f"""<?xml version="1.0"?>
<Capabilities xmlns="http://www.opengis.net/wmts/1.0" xmlns:ows="http://www.opengis.net/ows/1.1" version="1.0.0">
 <Contents>
  <Layer><ows:Title>photo</ows:Title><ows:Identifier>photo</ows:Identifier>
   <Style isDefault="true"><ows:Identifier>default</ows:Identifier></Style><Format>image/png</Format>
   <TileMatrixSetLink><TileMatrixSet>world</TileMatrixSet></TileMatrixSetLink>
   <ResourceURL format="image/png" resourceType="tile"
    template="{server.url}/xyz/{{TileMatrix}}/{{TileCol}}/{{TileRow}}.png"/>
  </Layer>
  <TileMatrixSet><ows:Identifier>world</ows:Identifier><ows:SupportedCRS>urn:ogc:def:crs:EPSG::3857</ows:SupportedCRS>
   <TileMatrix><ows:Identifier>18</ows:Identifier><ScaleDenominator>{scale!r}</ScaleDenominator>
    <TopLeftCorner>{-edge} {edge}</TopLeftCorner><TileWidth>256</TileWidth><TileHeight>256</TileHeight>
    <MatrixWidth>262144</MatrixWidth><MatrixHeight>262144</MatrixHeight></TileMatrix>
  </TileMatrixSet>
 </Contents>
</Capabilities>"""
