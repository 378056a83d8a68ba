// The load tool's page in Chromium: it draws all of its plots, and asks nobody for anything.

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, test } from '../lib/test.mjs';
import { keep, MISSING, openTab, startBrowser } from '../lib/browser.mjs';
import { folder, load, sound } from '../lib/loadtest.mjs';
import { stageOf } from '../lib/stage.mjs';
import { TIDEGATE_ONLY } from '../lib/subject.mjs';
import { startTidegate } from '../lib/tidegate.mjs';

/** Opens a page of the tool's; whatever else the browser wants for it is told. */
async function open(stage, page) {
  const browser = await startBrowser(stage);
  const tab = await openTab(stage, browser, 'about:blank');
  const wanted = [];
  tab.on('request', (request) => wanted.push(request.url()));
  const url = pathToFileURL(page).href;
  await tab.goto(url);
  return { tab, others: () => wanted.filter((each) => each !== url) };
}

describe("the load tool's pages", { skip: TIDEGATE_ONLY, needs: MISSING }, () => {
  test('a run: every plot is drawn, and nothing is loaded', async (t) => {
    const stage = stageOf(t);
    const node = await startTidegate(stage);
    const report = join(await folder(stage), 'report.html');
    const settings = { url: node.url, pid: node.pid, rooms: 10, members: 5, seconds: 2, 'warm-up': 0.5, report };
    await sound(stage, ['rooms'], settings);
    const { tab, others } = await open(stage, report);
    const plots = tab.locator('[data-plot]');
    const drawn = await plots.evaluateAll((all) => all.map((plot) => [plot.dataset.plot, plot.querySelectorAll('svg path, svg rect, svg polyline').length]));
    assert.deepEqual(drawn.map(([kind]) => kind), ['percentiles', 'bars', 'rate', 'cpu', 'memory', 'load']);
    for (const [kind, marks] of drawn) assert.ok(marks > 0, `${kind} is empty`);
    assert.doesNotMatch(await tab.locator('svg').evaluateAll((all) => all.map((svg) => svg.outerHTML).join('')), /NaN|Infinity|undefined/);
    await keep(tab, 'loadtest-run');
    assert.deepEqual([tab.faults, others()], [[], []]);
  });

  test('a comparison: a bar for each', async (t) => {
    const stage = stageOf(t);
    const node = await startTidegate(stage);
    const [json, report] = [join(await folder(stage), 'record.json'), join(await folder(stage), 'bars.html')];
    for (const label of ['ours', 'theirs']) {
      const settings = { url: node.url, pid: node.pid, subscribers: 10, messages: 50, label, json };
      assert.equal((await load(stage, ['fanout'], settings)).code, 0);
    }
    const { code, stdout, stderr } = await load(stage, ['compare', json], { base: 'theirs', report });
    assert.equal(code, 0, stderr);
    assert.match(stdout, /x theirs/);
    const { tab, others } = await open(stage, report);
    assert.ok((await tab.locator('.bar').count()) >= 2);
    await keep(tab, 'loadtest-comparison');
    assert.deepEqual([tab.faults, others()], [[], []]);
  });
});
