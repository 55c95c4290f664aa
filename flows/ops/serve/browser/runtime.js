/*
 * Runtime configuration of STAC Browser, loaded before its bundle. `window.UNVEIL_SETTINGS` is written above this
 * text by `unveil serve`: {catalogPath, title, basemap, crs}.
 */
(function configure(settings) {
  'use strict';

  /** Standard deviations around the mean that the stretch keeps. */
  const SPREAD = 2;

  function visualBands(asset, wanted) {
    const bands = asset.getBands();
    return wanted ? wanted.map((number) => bands[number - 1]) : bands;
  }

  /** [low, high] of a band in stored values: mean +- 2 sigma within minimum and maximum; null without statistics. */
  function bandRange(band) {
    const { minimum, maximum, mean, stddev } = (band && band.getMetadata('statistics')) || {};
    if (![minimum, maximum, mean, stddev].every(Number.isFinite)) {
      return null;
    }
    return [Math.max(minimum, mean - SPREAD * stddev), Math.min(maximum, mean + SPREAD * stddev)];
  }

  /**
   * STAC Browser 4 stretches every band of a file between the smallest minimum and the largest maximum, which one
   * bright cloud or the near infrared makes nearly black. Take the bands on show, and leave the tails out. All
   * bands keep one common stretch, so that colours stay true to the ground.
   */
  function stretch(source, asset) {
    const bands = visualBands(asset, source.bands);
    if (bands.length < 3) {
      return source;
    }
    const ranges = bands.map(bandRange);
    if (ranges.some((range) => range === null)) {
      return source;
    }
    const min = Math.min(...ranges.map(([low]) => low));
    const max = Math.max(...ranges.map(([, high]) => high));
    return max > min ? { ...source, min, max } : source;
  }

  function isEightBit(asset) {
    return [asset, ...asset.getBands()].some((holder) => holder.getMetadata('data_type') === 'uint8');
  }

  function isClassified(asset) {
    const bands = asset.getBands();
    return bands.length === 1 && Array.isArray(bands[0].getMetadata('classification:classes'));
  }

  /**
   * STAC Browser 4 draws classes as greys. Read the colour table of the file instead: three 8-bit bands. Class 0 is
   * nodata and black in the table, so black stands for nodata in the colours as well.
   */
  function classified(options) {
    const sources = options.sources.map((source) => ({ ...source, bands: [1, 2, 3], min: 0, max: 255, nodata: 0 }));
    // Between two class colours lies no third one.
    return { ...options, sources, convertToRGB: true, interpolate: false };
  }

  async function getMapSourceOptions(type, options, asset) {
    if (type.name !== 'GeoTIFF') {
      return options;
    }
    if (isClassified(asset)) {
      return classified(options);
    }
    if (isEightBit(asset)) {
      // Stretched when it was made: the Browser would stretch it once more, between its statistics.
      return { ...options, sources: options.sources.map((source) => ({ ...source, min: 0, max: 255 })) };
    }
    return { ...options, sources: options.sources.map((source) => stretch(source, asset)) };
  }

  window.STAC_BROWSER_CONFIG = {
    catalogUrl: new URL(settings.catalogPath, window.location.origin).href,
    catalogTitle: settings.title,
    historyMode: 'history',
    pathPrefix: '/',
    crs: settings.crs,
    getMapSourceOptions,
    socialSharing: [],
  };
})(window.UNVEIL_SETTINGS);
