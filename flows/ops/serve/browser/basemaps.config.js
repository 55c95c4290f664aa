/**
 * Which map lies under the imagery. Replaces the file of the same name of STAC Browser at build time; the choice
 * itself is made at run time, by `basemap` of the settings that `unveil serve` sends before the bundle.
 *
 * `graticule` (default) draws lines of latitude and longitude and asks no outside service.
 * `openstreetmap` loads tiles from the servers of OpenStreetMap.
 */
import Graticule from 'ol/layer/Graticule.js';
import { Fill, Stroke, Text } from 'ol/style.js';

const INK = 'rgba(70, 84, 99, 0.9)';

function label(placement) {
  return new Text({
    ...placement,
    font: '12px sans-serif',
    fill: new Fill({ color: INK }),
    stroke: new Stroke({ color: 'rgba(255, 255, 255, 0.9)', width: 3 }),
  });
}

function createGraticule() {
  return new Graticule({
    title: 'Graticule',
    base: true,
    showLabels: true,
    wrapX: false,
    targetSize: 140,
    intervals: [90, 45, 30, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01],
    strokeStyle: new Stroke({ color: 'rgba(70, 84, 99, 0.35)', width: 1 }),
    lonLabelStyle: label({ textBaseline: 'bottom', offsetY: -3 }),
    latLabelStyle: label({ textAlign: 'end', offsetX: -4 }),
  });
}

const BASEMAPS = {
  graticule: () => [{ title: 'Graticule', layerCreated: createGraticule }],
  openstreetmap: () => [
    {
      url: 'https://tile.openstreetmap.org/{z}/{x}/{y}.png',
      is: 'XYZ',
      title: 'OpenStreetMap',
      attributions:
        '&copy; <a href="https://www.openstreetmap.org/copyright" target="_blank">OpenStreetMap</a> contributors.',
      projection: 'EPSG:3857',
    },
  ],
  none: () => [],
};

export default function configureBasemap() {
  const choice = (window.UNVEIL_SETTINGS || {}).basemap;
  return (BASEMAPS[choice] || BASEMAPS.graticule)();
}
