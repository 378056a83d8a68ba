// The page that takes a reader to a page of their own: its two pages as they are printed, in Chromium, on two nodes, through
// the three scenes it describes; and what its client does where WebSocket is blocked.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before } from 'node:test';
import { fileURLToPath } from 'node:url';
import { describe, test } from '../lib/test.mjs';
import { keep, MISSING, openTab, startBrowser } from '../lib/browser.mjs';
import { freePort } from '../lib/ports.mjs';
import { serveOldProxy, serveSite } from '../lib/site.mjs';
import { Stage, stageOf } from '../lib/stage.mjs';
import { TIDEGATE_ONLY } from '../lib/subject.mjs';
import { startTidegate } from '../lib/tidegate.mjs';
import { until } from '../lib/wait.mjs';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const TUTORIAL = readFileSync(here('../../../docs/first-page.md'), 'utf8');
const PAGES = Object.fromEntries([...TUTORIAL.matchAll(/^```html (\S+)\n([\s\S]*?)^```/gm)].map(([, name, text]) => [name, text]));

/** The tries of both clients together take at least as long. */
const TRIES_WITHIN_MS = 20_000;

const lines = (tab) => tab.locator('#log li').allTextContents();

/** Waits until the page shows a line that has this text; what it shows instead is told if it does not. */
async function shows(tab, text, timeout = TRIES_WITHIN_MS) {
  await tab.locator('#log li', { hasText: text }).first().waitFor({ timeout }).catch(async (failure) => {
    throw new Error(`no line with ${JSON.stringify(text)} among ${JSON.stringify(await lines(tab))}, ${JSON.stringify(tab.faults)}`, { cause: failure });
  });
}

const press = (tab, name) => tab.getByRole('button', { name }).click();

/** The pages and the clients they import, as the reader's folder has them; ports are those of the test. */
function site(stage, port) {
  const page = (name) => PAGES[name].replaceAll('8080', String(port));
  return serveSite(stage, {
    '/plain.html': page('plain.html'),
    '/socketio.html': page('socketio.html'),
    '/tidegate-client/': here('../../../client-js/src/'),
    '/node_modules/socket.io-client/': here('../node_modules/socket.io-client/'),
  });
}

test('the tutorial has the two pages', { skip: TIDEGATE_ONLY }, () => assert.deepEqual(Object.keys(PAGES), ['plain.html', 'socketio.html']));

describe('the pages of the tutorial', { skip: TIDEGATE_ONLY, needs: MISSING }, () => {
  const suite = new Stage();
  let browser;
  before(async () => (browser = await startBrowser(suite)));
  after(() => suite.close());

  for (const [one, other] of [['plain', 'plain'], ['socketio', 'socketio'], ['plain', 'socketio']]) {
    const at = (base, page, user, port) => `${base}/${page}.html?user=${user}&port=${port}`;

    test(`${one} and ${other}: a word on two nodes, and the three scenes`, async (t) => {
      const stage = stageOf(t);
      const port = await freePort(2);
      let cluster = await startTidegate(stage, { nodes: 2, port });
      const base = await site(stage, port);
      const ann = await openTab(stage, browser, at(base, one, 'ann', port));
      const bob = await openTab(stage, browser, at(base, other, 'bob', port + 10));
      for (const tab of [ann, bob]) await shows(tab, 'connected');
      await press(ann, 'Say it in the lobby');
      for (const tab of [ann, bob]) await shows(tab, 'ann says hello');

      // Reconnection.
      await cluster.kill();
      for (const tab of [ann, bob]) await shows(tab, 'lost, try 1');
      cluster = await startTidegate(stage, { nodes: 2, port });
      for (const tab of [ann, bob]) await shows(tab, 'back');
      await bob.getByLabel('Text').fill('still here');
      await press(bob, 'Say it in the lobby');
      for (const tab of [ann, bob]) await shows(tab, 'bob says still here');
      assert.equal((await lines(ann)).filter((line) => line === 'bob says still here').length, 1);

      // An offline reminder.
      await bob.context().close();
      // A browser says goodbye, and the node takes it from there.
      const sessions = async () => (await (await fetch(`${cluster.admin}/api/v1/users/bob`)).json()).sessions;
      await until('bob has gone', async () => (await sessions()).length === 0);
      await press(ann, 'Remind them');
      await shows(ann, 'reminder for bob: ');
      assert.ok((await lines(ann)).includes('reminder for bob: stored'), (await lines(ann)).join('\n'));
      const back = await openTab(stage, browser, at(base, other, 'bob', port));
      await shows(back, 'ann reminded you: call ann');
      await press(ann, 'Remind them');
      await shows(ann, 'reminder for bob: live');
      await shows(back, 'ann says call ann');
      await back.context().close();
      const again = await openTab(stage, browser, at(base, other, 'bob', port));
      await shows(again, 'connected');
      await press(ann, 'Say it in the lobby');
      await shows(again, 'ann says hello');
      assert.deepEqual((await lines(again)).filter((line) => line.includes('reminded')), []);

      // Automatic disconnect.
      const newer = await openTab(stage, browser, at(base, one, 'ann', port + 10));
      await shows(newer, 'connected');
      await shows(ann, 'evicted: replaced');
      await press(again, 'Say it in the lobby');
      await shows(newer, 'bob says hello');
      assert.ok(!(await lines(ann)).includes('bob says hello'));
      await keep(newer, `first-page-${one}-${other}`);
      // Nothing but the server's absence was ever wrong.
      for (const tab of [ann, again, newer]) {
        assert.deepEqual(tab.faults.filter((fault) => !/ERR_CONNECTION|ERR_EMPTY_RESPONSE|WebSocket connection to/.test(fault)), []);
      }
      assert.deepEqual(newer.faults, []);
    });
  }

  test('where WebSocket is blocked the client falls back to long-polling at once', async (t) => {
    const stage = stageOf(t);
    const node = await startTidegate(stage);
    const proxy = await serveOldProxy(stage, node.url);
    const base = await serveSite(stage, {
      '/page.html': `<!doctype html><link rel="icon" href="data:,"><ul id="log"></ul><script type="module">
        import { Socket } from './tidegate-client/index.js';
        const log = (text) => document.getElementById('log').append(Object.assign(document.createElement('li'), { textContent: text }));
        const began = performance.now();
        const socket = new Socket(${JSON.stringify(proxy)}, {
          auth: { user: 'ann' },
          allowReconnect: false,
          success: ({ transport }) => log('connected over ' + transport + (performance.now() - began < 900 ? ' at once' : ' late')),
          fail: ({ code }) => log('gave up with ' + code),
          onStatus: (status) => log(status),
          onMessage: ({ op, args }) => op === 'event' && log('heard ' + args[0] + ' ' + args[1]),
        });
        socket.join('lobby');
        window.say = () => socket.publish('lobby', 'over polling', { echo: true });
        window.bytes = () => socket.publish('lobby', new Uint8Array([1, 2, 255]), { echo: true });
        window.leave = () => socket.close();
      </script>`,
      '/tidegate-client/': here('../../../client-js/src/'),
    });
    const tab = await openTab(stage, browser, `${base}/page.html`);
    await shows(tab, 'connected over polling at once');
    assert.equal(await node.metric('tidegate_connections', { transport: 'polling' }), 1);
    await tab.evaluate(() => window.say());
    await shows(tab, 'heard over polling');
    await tab.evaluate(() => window.bytes());
    await shows(tab, 'heard 1,2,255');
    assert.deepEqual((await lines(tab)).filter((line) => line === 'waiting' || line.startsWith('gave up')), []);
    await keep(tab, 'blocked-websocket');
    await tab.evaluate(() => window.leave());
    await shows(tab, 'closed');
    // Chromium reports the refused upgrade itself; nothing else went wrong.
    assert.deepEqual(tab.faults.filter((fault) => !/WebSocket connection to/.test(fault)), []);
  });
});
