// Headless Chromium, driven by playwright-core: one browser a file, tabs that remember what went wrong in them.

import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { WITHIN_MS } from './wait.mjs';

const PROGRAM = process.env.CHROMIUM ?? 'chromium';

/** Without the background flags it asks for hosts of its maker's at every start. */
const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-quic', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run'];

/** Where pictures are kept for whoever wants to see what a test saw. */
export const PICTURES = fileURLToPath(new URL('../../../../target/screenshots/', import.meta.url));

const found = spawnSync('sh', ['-c', `command -v "${PROGRAM}"`], { encoding: 'utf8' }).stdout.trim();

/** Why no browser can be had here; undefined if one can. */
export const MISSING = found === '' ? `${PROGRAM} is not installed` : undefined;

export async function startBrowser(stage) {
  mkdirSync(PICTURES, { recursive: true });
  const browser = await chromium.launch({ executablePath: found, args: FLAGS });
  stage.defer(() => browser.close());
  return browser;
}

/** A tab on a page of its own context. What its console calls an error is in `faults`, with exceptions of the page. */
export async function openTab(stage, browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  stage.defer(() => context.close());
  context.setDefaultTimeout(2 * WITHIN_MS);
  const tab = await context.newPage();
  tab.faults = [];
  tab.on('pageerror', (error) => tab.faults.push(`exception: ${error.message}`));
  tab.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) tab.faults.push(`${message.type()}: ${message.text()}`);
  });
  await tab.goto(url);
  return tab;
}

/** Keeps a picture of the whole page. */
export function keep(tab, name) {
  return tab.screenshot({ path: `${PICTURES}${name}.png`, fullPage: true });
}
