/**
 * Open a served catalog in Chromium as a person would, and write down what was seen.
 *
 *   node explore.mjs ADDRESS FOLDER
 *
 * ADDRESS is the root of `unveil serve`. FOLDER receives one picture per step and `seen.json`:
 * {pages, cards, item, thumbnail, maps: {asset: {picture, ring, shown}}, legends: {asset: {text, colours}}, inputs,
 * ranges: {file: count}, outside, problems, links, reloaded}.
 * `ring` is the item's footprint in pixels (x, y) of the picture. The script judges nothing: the Python test does.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { chromium } from 'playwright-core';

const CHROMIUM = process.env.UNVEIL_CHROMIUM || '/usr/bin/chromium';
const STEP_MS = 60_000;
const DEEPEST = 5;
const SIZE = { width: 1360, height: 1000 };
const ARGUMENTS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--enable-unsafe-swiftshader', // WebGL without a GPU: GeoTIFF layers are drawn with it
];

/** Write down requests, and stop those that leave this machine. */
async function watch(context, page, origin, seen) {
  await context.route('**/*', (route) => {
    const url = route.request().url();
    if (url.startsWith(origin) || /^(data|blob):/.test(url)) {
      return route.continue();
    }
    seen.outside.push(url);
    return route.abort('blockedbyclient');
  });
  page.on('response', (response) => {
    const file = path.posix.basename(new URL(response.url()).pathname);
    if (response.status() === 206) {
      seen.ranges[file] = (seen.ranges[file] || 0) + 1;
    }
    if (response.status() >= 400) {
      seen.problems.push(`${response.status()} ${response.url()}`);
    }
  });
  page.on('pageerror', (error) => seen.problems.push(`exception: ${error.message}`));
  page.on('console', (message) => {
    const about = message.location().url || '';
    const blocked = message.text().includes('ERR_BLOCKED_BY_CLIENT') && !about.startsWith(origin);
    if (message.type() === 'error' && !blocked) {
      seen.problems.push(`console: ${message.text()}`);
    }
  });
}

/** Keep a picture as it is once every fade has ended. */
async function picture(target, folder, name, options = {}) {
  await target.screenshot({ path: path.join(folder, `${name}.png`), animations: 'disabled', ...options });
}

async function note(page, folder, seen, name) {
  await picture(page, folder, name);
  const links = await page.$$eval('a[href]', (anchors) => anchors.map((anchor) => anchor.href));
  seen.links.push(...links);
  seen.pages.push({ name, url: page.url(), heading: (await page.locator('h1').first().innerText()).trim() });
}

/** Wait until STAC Browser has loaded another document than `before`; return its address and type. */
async function loaded(page, before) {
  const handle = await page.waitForFunction(
    (last) => {
      const state = document.querySelector('#stac-browser')?.__vue__?.$store?.state;
      const ready = state && !state.loading && state.data && state.url && state.url !== last;
      return ready ? { url: state.url, type: state.data.type } : null;
    },
    before,
    { timeout: STEP_MS },
  );
  return handle.jsonValue();
}

/** The pictures of a card, read at the moment when all of them have arrived; as they are where one never does. */
async function picturesOf(page, card) {
  const image = card.locator('img').first();
  const shown = await image.waitFor({ timeout: 5_000 }).then(() => true, () => false); // a card may have none
  if (!shown) {
    return [];
  }
  const read = ([element, all]) => {
    const pictures = [...element.querySelectorAll('img')].map((one) => ({
      src: one.src,
      width: one.naturalWidth,
      height: one.naturalHeight,
    }));
    return all && !pictures.every((one) => one.width > 0) ? null : pictures;
  };
  const element = await card.elementHandle();
  const arrived = await page.waitForFunction(read, [element, true], { timeout: STEP_MS }).catch(() => null);
  return arrived ? arrived.jsonValue() : page.evaluate(read, [element, false]);
}

/** Open the first card of a list page. */
async function openCard(page, folder, seen, name) {
  const card = page.locator('.catalog-card, .item-card').first();
  await card.waitFor({ timeout: STEP_MS });
  const pictures = await picturesOf(page, card);
  seen.cards.push({ page: name, pictures });
  await note(page, folder, seen, name);
  await card.locator('a.stretched-link').click();
}

/** Follow first cards from the root of the catalog down to an item. */
async function openFirstItem(page, folder, seen) {
  let document = await loaded(page, null);
  for (let depth = 1; document.type !== 'Feature'; depth += 1) {
    if (depth > DEEPEST) {
      throw new Error(`no item within ${DEEPEST} steps below the catalog`);
    }
    await openCard(page, folder, seen, `${depth}-${document.type.toLowerCase()}`);
    document = await loaded(page, document.url);
  }
  seen.item = document.url;
}

/** Wait until the map draws `key` and nothing is left to load; return the footprint in pixels. */
async function mapOf(page, key) {
  return page.evaluate(
    async ([wanted, limit]) => {
      const end = Date.now() + limit;
      const owner = () => document.querySelector('.map-container')?.__vue__;
      const layers = () => owner()?.stacLayer?.getLayers().getArray() || [];
      const shown = () => layers().map((layer) => layer.get('stac')?.getKey?.() || null).filter(Boolean);
      while (!shown().includes(wanted)) {
        if (Date.now() > end) {
          throw new Error(`the map never showed ${wanted}, only: ${shown().join(', ')}`);
        }
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      const map = owner().map;
      await new Promise((resolve, reject) => {
        setTimeout(() => reject(new Error('the map never finished drawing')), Math.max(0, end - Date.now()));
        map.once('rendercomplete', resolve);
        map.render();
      });
      const bounds = layers().find((layer) => layer.get('bounds'));
      const outline = bounds.getSource().getFeatures()[0].getGeometry().getCoordinates()[0];
      return { ring: outline.map((point) => map.getPixelFromCoordinate(point)), shown: shown() };
    },
    [key, STEP_MS],
  );
}

async function keepMap(page, folder, seen, key) {
  const state = await mapOf(page, key);
  const name = `map-${key}`;
  await picture(page.locator('.map-container .map').first(), folder, name);
  seen.maps[key] = { ...state, picture: `${name}.png` };
}

/** Open an asset in the list of the item and press its button "Show on map". */
async function choose(page, key) {
  const card = page.locator('.asset').filter({ has: page.locator(`#asset-${key}`) });
  const body = page.locator(`#asset-${key}`);
  if (!(await body.isVisible())) {
    await card.locator('.card-header button').click();
  }
  await body.getByRole('button', { name: 'Show on map' }).click();
}

/** The legend beside a classified raster: texts of its table, and colours of its patches as `rgb(r, g, b)`. */
async function readLegend(page, key) {
  return page.locator(`#asset-${key}`).evaluate((body) => ({
    text: body.innerText,
    colours: [...body.querySelectorAll('[style]')].map((element) => element.style.backgroundColor).filter(Boolean),
  }));
}

async function seeThumbnail(page, folder, seen) {
  await page.getByRole('tab', { name: 'Thumbnail' }).click();
  const image = page.locator('.tab-pane.active img').first();
  await image.waitFor({ timeout: STEP_MS });
  await page.waitForFunction((element) => element.complete && element.naturalWidth > 0, await image.elementHandle(), { timeout: STEP_MS }).catch(() => null);
  seen.thumbnail = await image.evaluate((element) => ({
    src: element.src,
    width: element.naturalWidth,
    height: element.naturalHeight,
  }));
  await note(page, folder, seen, 'item-thumbnail');
}

async function explore(page, address, folder, seen) {
  await page.goto(`${address}/`, { timeout: STEP_MS });
  await openFirstItem(page, folder, seen);
  await keepMap(page, folder, seen, 'visual');
  await note(page, folder, seen, 'item-visual');
  for (const key of ['provenance', 'data']) {
    await choose(page, key);
    await keepMap(page, folder, seen, key);
    await note(page, folder, seen, `item-${key}`);
    seen.legends[key] = await readLegend(page, key);
  }
  seen.inputs = await page.$$eval('a[href*="/items/"]', (anchors) => anchors.map((anchor) => anchor.innerText.trim()));
  await seeThumbnail(page, folder, seen);
  await page.reload(); // history mode: the address of a page opens it
  await mapOf(page, 'visual');
  await picture(page, folder, 'item-reloaded', { fullPage: true });
  seen.reloaded = (await loaded(page, null)).url;
}

async function main(address, folder) {
  const seen = { pages: [], cards: [], maps: {}, legends: {}, inputs: [], ranges: {}, outside: [], problems: [], links: [] };
  const profile = await mkdtemp(path.join(os.tmpdir(), 'unveil-browser-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: CHROMIUM,
    headless: true,
    args: ARGUMENTS,
    viewport: SIZE,
    locale: 'en-US',
  });
  try {
    const page = context.pages()[0] || (await context.newPage());
    page.setDefaultTimeout(STEP_MS);
    await watch(context, page, new URL(address).origin, seen);
    try {
      await explore(page, address, folder, seen);
    } catch (error) {
      seen.problems.push(`stopped: ${error.message}`);
      await picture(page, folder, 'stopped');
    }
  } finally {
    await writeFile(path.join(folder, 'seen.json'), JSON.stringify(seen, null, 2));
    await context.close();
    await rm(profile, { recursive: true, force: true });
  }
}

await main(process.argv[2].replace(/\/$/, ''), process.argv[3]);
