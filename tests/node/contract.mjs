/**
 * Ask the libraries of STAC Browser what they make of a served catalog, item by item and raster by raster.
 *
 *   node contract.mjs CATALOG DEFINITIONS
 *
 * CATALOG is the address of a catalog.json, DEFINITIONS a file {"EPSG:32633": "<WKT>", ...}: the coordinate systems
 * that the Browser is configured with. Prints {items, rasters, checks, failures: [{item, asset, check, found}]}; ends
 * with status 1 when something failed. Nothing is drawn, so neither a browser nor a DOM is needed.
 */
import { readFile } from 'node:fs/promises';
import { register } from 'ol/proj/proj4.js';
import { transform } from 'ol/proj.js';
import GeoTIFF from 'ol-stac/source/GeoTIFF.js';
import { getGeoTiffSourceInfoFromAsset, getProjection } from 'ol-stac/util.js';
import proj4 from 'proj4';
import create from 'stac-js';

const STEP_MS = 30_000;
const HEX = /^[0-9A-Fa-f]{6}$/;

const result = { items: 0, rasters: 0, checks: 0, failures: [] };

/** Note whether `passed`; `found` explains a failure. */
function check(item, asset, name, passed, found) {
  result.checks += 1;
  if (!passed) {
    result.failures.push({ item: item.id, asset, check: name, found: String(found) });
  }
}

async function load(address) {
  const answer = await fetch(address, { signal: AbortSignal.timeout(STEP_MS) });
  if (!answer.ok) {
    throw new Error(`${address} answers ${answer.status}`);
  }
  const object = create(await answer.json());
  object.setAbsoluteUrl(address);
  return object;
}

/** Yield every item below a catalog, over child links of any depth. */
async function* itemsBelow(address) {
  const node = await load(address);
  for (const link of node.getLinks()) {
    if (link.rel === 'child') {
      yield* itemsBelow(link.getAbsoluteUrl());
    } else if (link.rel === 'item') {
      yield await load(link.getAbsoluteUrl());
    }
  }
}

function checkItem(item) {
  const code = item.getMetadata('proj:code');
  const shown = item.getDefaultGeoTIFF(true, true);
  const [thumbnail] = item.getThumbnails(true, 'thumbnail');
  const untitled = item.getLinks().filter((link) => !link.title);
  check(item, null, 'title', Boolean(item.getMetadata('title')), 'no title');
  check(item, null, 'link titles', untitled.length === 0, untitled.map((link) => link.rel));
  check(item, null, 'projection', Boolean(code && proj4.defs(code)), code);
  check(item, null, 'default raster', shown?.getKey() === 'visual', shown?.getKey());
  check(item, null, 'thumbnail', thumbnail?.getKey() === 'thumbnail', thumbnail?.getKey());
}

/** What stac-js reads from the metadata of a raster. */
function checkMetadata(item, asset) {
  const key = asset.getKey();
  const bands = asset.getBands();
  check(item, key, 'media type', asset.isCOG() && asset.isHTTP(), asset.type);
  check(item, key, 'title', Boolean(asset.title), 'no title');
  check(item, key, 'bands', bands.length > 0, bands.length);
  for (const band of bands) {
    const { minimum, maximum } = band.getMinMaxValues();
    const ordered = Number.isFinite(minimum) && Number.isFinite(maximum) && minimum <= maximum;
    check(item, key, `range of ${band.name}`, ordered, `${minimum} to ${maximum}`);
    check(item, key, `nodata of ${band.name}`, band.getNoDataValues().length > 0, 'none');
  }
  if (asset.hasRole(['visual', 'data'])) {
    check(item, key, 'red, green and blue', asset.findVisualBands() !== null, bands.map((band) => band.name));
  }
  if (key === 'provenance') {
    checkClasses(item, key, bands[0]?.getMetadata('classification:classes'));
  }
}

function checkClasses(item, key, classes) {
  const given = Array.isArray(classes) ? classes : [];
  check(item, key, 'classes', given.length > 1, given.length);
  check(item, key, 'nodata class', given.some((entry) => entry.nodata), 'none');
  for (const entry of given) {
    const legible = HEX.test(entry.color_hint || '') && Boolean(entry.title) && Number.isInteger(entry.value);
    check(item, key, `class ${entry.value}`, legible, JSON.stringify(entry));
  }
}

/** Open the raster as the map would, and wait until its header is read: the layer's projection is the file's own. */
async function open(asset) {
  const source = getGeoTiffSourceInfoFromAsset(asset, []);
  const projection = await getProjection(asset);
  const layer = new GeoTIFF({ sources: [source], convertToRGB: 'auto', loadMissingProjection: true });
  await new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('its header was not read in time')), STEP_MS);
    const settle = (error) => {
      clearTimeout(timer);
      return error ? reject(error) : resolve();
    };
    layer.on('error', () => settle(layer.getError() || new Error('it cannot be opened')));
    layer.on('change', () => layer.getState() !== 'loading' && settle(layer.getError?.()));
  });
  return { source, layer, projection };
}

/** [west, south, east, north] of a raster by its metadata, in its own coordinate system. */
function extentOf(asset) {
  const [a, , west, , e, north] = asset.getMetadata('proj:transform');
  const [height, width] = asset.getMetadata('proj:shape');
  return [west, north + e * height, west + a * width, north];
}

/** Whether the centre of an extent lies in the box of the item, degrees. */
function isInPlace(item, projection, [west, south, east, north]) {
  const [x, y] = transform([(west + east) / 2, (south + north) / 2], projection, 'EPSG:4326');
  const [left, bottom, right, top] = item.bbox;
  const between = left <= right ? x >= left && x <= right : x >= left || x <= right;
  return between && y >= bottom && y <= top;
}

async function checkLayer(item, asset) {
  const key = asset.getKey();
  let opened;
  try {
    opened = await open(asset);
  } catch (error) {
    check(item, key, 'layer', false, error.message);
    return;
  }
  const { source, layer, projection } = opened;
  check(item, key, 'layer', layer.getState() === 'ready', layer.getState());
  check(item, key, 'stretch', source.min <= source.max, `${source.min} to ${source.max}`);
  check(item, key, 'transparency', source.nodata !== undefined, 'no nodata');
  const code = item.getMetadata('proj:code');
  check(item, key, 'layer projection', layer.getProjection()?.getCode() === code, layer.getProjection()?.getCode());
  const drawn = layer.getTileGrid().getExtent();
  const told = extentOf(asset);
  const pixel = Math.abs(asset.getMetadata('proj:transform')[0]);
  check(item, key, 'extent', told.every((side, i) => Math.abs(side - drawn[i]) < pixel / 100), `${drawn} not ${told}`);
  check(item, key, 'place', projection && isInPlace(item, projection, drawn), drawn);
}

async function main(catalog, definitions) {
  proj4.defs(Object.entries(JSON.parse(await readFile(definitions, 'utf-8'))));
  register(proj4);
  for await (const item of itemsBelow(catalog)) {
    result.items += 1;
    const rasters = item.getAssets().filter((each) => /\.tiff?$/.test(each.href));
    // The item of a model has none, and nothing to be drawn on a map.
    if (rasters.length > 0) {
      checkItem(item);
    }
    for (const asset of rasters) {
      result.rasters += 1;
      checkMetadata(item, asset);
      await checkLayer(item, asset);
    }
  }
  process.stdout.write(`${JSON.stringify(result, null, 1)}\n`);
  process.exitCode = result.failures.length > 0 || result.rasters === 0 ? 1 : 0;
}

await main(process.argv[2], process.argv[3]);
