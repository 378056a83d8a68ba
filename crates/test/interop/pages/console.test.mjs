// The console page in Chromium: what a developer sees of a cluster in the first minute, and what breaks in it on purpose.

import assert from 'node:assert/strict';
import { after, before } from 'node:test';
import { describe, test } from '../lib/test.mjs';
import { keep, MISSING, openTab, startBrowser } from '../lib/browser.mjs';
import { startRedis } from '../lib/redis.mjs';
import { Stage, stageOf } from '../lib/stage.mjs';
import { TIDEGATE_ONLY } from '../lib/subject.mjs';
import { startTidegate } from '../lib/tidegate.mjs';
import { request } from '../lib/wire.mjs';
import { until } from '../lib/wait.mjs';

/** What Chromium itself says about servers that are away, on purpose. */
const AWAY = /ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE|ERR_INCOMPLETE_CHUNKED|WebSocket connection to/;

/** One client of the page. */
class Client {
  constructor(tab, at) {
    this.root = tab.locator('.panel').nth(at);
  }

  async connect({ user, device, node, over } = {}) {
    if (user !== undefined) await this.root.getByLabel('User', { exact: true }).fill(user);
    if (device !== undefined) await this.root.getByLabel('Device').fill(device);
    if (node !== undefined) await this.root.getByLabel('Node').selectOption({ index: node });
    if (over !== undefined) await this.root.getByLabel('Over').selectOption(over);
    await this.press('Connect');
    await this.is('connected');
    return this;
  }

  press(name) {
    return this.root.getByRole('button', { name, exact: true }).click();
  }

  async join(room) {
    await this.root.getByLabel('Room', { exact: true }).fill(room);
    await this.press('Join');
    await this.root.getByRole('button', { name: `Leave ${room}` }).waitFor();
  }

  async publish(text) {
    await this.root.getByLabel('Text or JSON').first().fill(text);
    await this.press('Publish');
  }

  async send(to, text) {
    await this.root.getByLabel('To user').fill(to);
    await this.root.getByLabel('Text or JSON').last().fill(text);
    await this.press('Send');
  }

  is(state) {
    return this.root.locator(`.pill[data-state=${state}]`).waitFor();
  }

  line(text) {
    return this.root.locator('.log li', { hasText: text });
  }

  hears(text) {
    return this.line(text).first().waitFor();
  }

  note() {
    return this.root.locator('.note').textContent();
  }
}

/** Figures beside the charts of a node's card. */
const figure = (tab, node, title) => tab.locator('.card').nth(node).locator('.chart', { hasText: title }).locator('dd').textContent();

/** WCAG's contrast of every text on the page against what is behind it, where it is below 4.5. Runs in the page. */
function poorContrasts() {
  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = (color) => {
    const [r, g, b] = channels(color).map((value) => value / 255).map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let each = node; each !== null; each = each.parentElement) {
      const { backgroundColor } = getComputedStyle(each);
      if ((channels(backgroundColor)[3] ?? 1) > 0) return backgroundColor;
    }
    return 'rgb(255, 255, 255)';
  };
  const texts = [...document.querySelectorAll('body *')].filter((node) => !node.closest('[disabled], script, style, noscript') && (node.value || [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())));
  return texts.flatMap((node) => {
    const pair = [luminance(getComputedStyle(node).color), luminance(behind(node))].sort((one, other) => other - one);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    return ratio < 4.5 ? [`${node.tagName} ${node.textContent.slice(0, 30)}: ${ratio.toFixed(2)}`] : [];
  });
}

test('there is a page with --dev, and none without', { skip: TIDEGATE_ONLY }, async (t) => {
  const stage = stageOf(t);
  const dev = await startTidegate(stage, { nodes: 2 });
  for (const url of dev.urls) {
    const { status, headers, body } = await request(url);
    assert.deepEqual([status, headers['content-type']], [200, 'text/html; charset=utf-8']);
    assert.match(headers['content-security-policy'], /default-src 'none'/);
    for (const [index, { node }] of dev.ready.entries()) {
      assert.ok(body.includes(`{"name":"${node}","client":${dev.ports[index]},"admin":${dev.ports[index] + 1}}`), 'it knows every node');
    }
  }
  assert.equal((await request(`${dev.url}/`, { method: 'POST' })).status, 405);
  const production = await startTidegate(stage, { dev: false, config: 'auth.mode = "none"\n' });
  assert.equal((await request(production.url)).status, 404);
});

describe('the console', { skip: TIDEGATE_ONLY, needs: MISSING }, () => {
  const suite = new Stage();
  let browser;
  before(async () => (browser = await startBrowser(suite)));
  after(() => suite.close());

  test('two tabs on two nodes hear each other, and the charts show it', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const cluster = await startTidegate(stage, { nodes: 2, redis });
    const [first, second] = await Promise.all(cluster.urls.map((url) => openTab(stage, browser, url)));
    const ann = await new Client(first, 0).connect({ user: 'ann', node: 0 });
    const bob = await new Client(second, 1).connect({ user: 'bob', node: 1 });
    for (const each of [ann, bob]) await each.join('lobby');
    await ann.publish('héllo <b>there</b>');
    for (const each of [ann, bob]) await each.hears('héllo <b>there</b>');
    assert.match(await bob.line('héllo').textContent(), /from ann, in lobby/);
    await bob.publish('{"n":1}');
    await ann.hears('{"n":1}');
    await until('the cards of both tabs show a connection a node', async () => {
      const figures = await Promise.all([first, second].flatMap((tab) => [0, 1].map((node) => figure(tab, node, 'Connections'))));
      return figures.every((text) => text === '1');
    }, 10_000);
    await until('somebody was delivered to, and the pulse is measured', async () => {
      await ann.publish('more');
      return parseFloat(await figure(first, 1, 'Deliveries')) > 0 && /ms$/.test(await figure(first, 0, 'Pulse'));
    }, 10_000);
    await keep(first, 'console-light');
    await first.getByRole('button', { name: 'Switch between dark and light' }).click();
    await keep(first, 'console-dark');
    assert.deepEqual([first.faults, second.faults], [[], []]);
  });

  test('offline messages wait, arrive, and are acknowledged by a button or by themselves', async (t) => {
    const stage = stageOf(t);
    const { url } = await startTidegate(stage, { nodes: 2 });
    const tab = await openTab(stage, browser, url);
    const [ann, bob] = [await new Client(tab, 0).connect(), await new Client(tab, 1).connect({ over: 'polling' })];
    assert.match(await bob.note(), /long-polling/);
    await bob.press('I am ready');
    await bob.hears('0 had waited');
    await bob.press('Disconnect');
    await bob.is('closed');
    for (const text of ['one', 'two']) {
      await ann.send('bob', text);
      await until('it is stored', async () => (await ann.line('to bob: stored').count()) === (text === 'one' ? 1 : 2));
    }
    await bob.connect();
    await bob.press('I am ready');
    await bob.hears('2 had waited');
    await bob.line('one').getByRole('button', { name: 'Acknowledge' }).click();
    await bob.line('one').getByRole('button', { name: 'Acknowledged' }).waitFor();
    await keep(tab, 'console-offline');
    await bob.press('Disconnect');
    await bob.connect();
    await bob.root.getByLabel('Acknowledge by itself').check();
    await bob.press('I am ready');
    await bob.hears('1 had waited');
    await ann.send('bob', 'three');
    await ann.hears('to bob: live');
    await bob.hears('three');
    assert.equal(await bob.line('three').getByRole('button').count(), 0);
    await bob.press('I am ready');
    await until('nothing waits any more', async () => (await bob.line('0 had waited').count()) >= 2);
    assert.deepEqual(tab.faults, []);
  });

  test('a server is killed and comes back: the page does, too, with what it missed', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const node = await startTidegate(stage, { redis });
    const other = await startTidegate(stage, { redis });
    const tab = await openTab(stage, browser, node.url);
    const [ann, bob] = [await new Client(tab, 0).connect(), await new Client(tab, 1).connect()];
    for (const each of [ann, bob]) await each.join('lobby');
    await bob.press('I am ready');
    await bob.hears('0 had waited');
    await node.kill();
    for (const each of [ann, bob]) await each.is('waiting');
    await tab.locator('.card .pill[data-state=down]').waitFor();
    await keep(tab, 'console-server-away');
    const stored = await fetch(`${other.admin}/api/v1/users/bob/messages`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ event: 'note', data: 'missed' }) });
    assert.equal(stored.status, 202);
    // Asked while it is away, and answered once it is back.
    await ann.publish('said into the void');
    await startTidegate(stage, { redis, port: node.port });
    for (const each of [ann, bob]) await each.root.locator('.pill[data-state=connected]').waitFor({ timeout: 30_000 });
    await bob.hears('missed');
    // Bob may have come back later than that.
    await ann.hears('said into the void');
    await ann.publish('together again');
    for (const each of [ann, bob]) await each.hears('together again');
    assert.match(await bob.note(), /^Back on /);
    await keep(tab, 'console-server-back');
    assert.deepEqual(tab.faults.filter((fault) => !AWAY.test(fault)), []);
  });

  test('the same user in a third tab evicts the first, which stays away', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const cluster = await startTidegate(stage, { nodes: 2, redis });
    const [first, second, third] = await Promise.all([0, 1, 1].map((node) => openTab(stage, browser, cluster.urls[node])));
    const old = await new Client(first, 0).connect({ user: 'ann', device: 'laptop', node: 0 });
    const bob = await new Client(second, 1).connect({ user: 'bob' });
    for (const each of [old, bob]) await each.join('lobby');
    const young = await new Client(third, 0).connect({ user: 'ann', device: 'laptop', node: 1 });
    await young.join('lobby');
    await old.hears('replaced, by device laptop');
    await old.is('failed');
    assert.match(await old.note(), /^Code 5: replaced/);
    await keep(first, 'console-evicted');
    await bob.publish('after that');
    await young.hears('after that');
    // Longer than its first tries would take.
    const { sessions } = await until('its place is kept by the newer one', async () => {
      await bob.publish('and again');
      const answer = await fetch(`${cluster.admin}/api/v1/users/ann`).then((found) => found.json());
      return (await young.line('and again').count()) > 20 ? answer : null;
    }, 30_000);
    assert.equal(sessions.length, 1);
    assert.equal(await old.line('after that').count(), 0);
    await old.is('failed');
    // One page, the same user twice.
    await young.press('Same user again');
    await young.is('failed');
    assert.deepEqual([first.faults, second.faults, third.faults], [[], [], []]);
  });

  test('it works by keyboard alone, on a phone, in both themes with contrast to read by', async (t) => {
    const stage = stageOf(t);
    const { url } = await startTidegate(stage, { nodes: 2 });
    const tab = await openTab(stage, browser, url, { viewport: { width: 360, height: 740 } });
    await tab.getByRole('button', { name: 'Add a client' }).focus();
    await tab.keyboard.press('Enter');
    const eve = new Client(tab, 2);
    await eve.root.waitFor();
    // The new client's first field has the focus; enter in any field of a form does what the form is for.
    await tab.keyboard.press('Control+A');
    await tab.keyboard.type('zoë');
    await tab.keyboard.press('Enter');
    await eve.is('connected');
    assert.equal(await eve.root.locator('h3').textContent(), 'zoë · phone 1');
    await eve.root.getByLabel('Room', { exact: true }).focus();
    await tab.keyboard.press('Enter');
    await eve.root.getByRole('button', { name: 'Leave lobby' }).waitFor();
    const reached = new Set();
    for (let step = 0; step < 14; step += 1) {
      await tab.keyboard.press('Tab');
      reached.add(await tab.evaluate(() => document.activeElement.getAttribute('aria-label') ?? document.activeElement.name ?? document.activeElement.textContent));
    }
    for (const name of ['Leave lobby', 'data', 'to', 'message']) assert.ok(reached.has(name), `${name} is reached by tab: ${[...reached]}`);
    await eve.publish('on a phone');
    await eve.hears('on a phone');
    const { scroll, width } = await tab.evaluate(() => ({ scroll: document.documentElement.scrollWidth, width: window.innerWidth }));
    assert.ok(scroll <= width, `${scroll} px on a screen of ${width}`);
    await keep(tab, 'console-phone');
    for (const scheme of ['light', 'dark']) {
      await tab.emulateMedia({ colorScheme: scheme });
      assert.deepEqual(await tab.evaluate(poorContrasts), [], scheme);
    }
    const unnamed = await tab.evaluate(() => [...document.querySelectorAll('input, select, button')].filter((each) => !each.labels?.length && !each.textContent.trim() && !each.getAttribute('aria-label')).length);
    assert.equal(unnamed, 0);
    assert.deepEqual(tab.faults, []);
  });

  test('the focus stays where one is, the log where one reads, and nothing is said to be done that was not', async (t) => {
    const stage = stageOf(t);
    const node = await startTidegate(stage);
    const tab = await openTab(stage, browser, node.url);
    const focused = () => tab.evaluate(() => document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent);
    const [ann, bob] = [new Client(tab, 0), await new Client(tab, 1).connect()];
    await ann.root.getByLabel('User', { exact: true }).focus();
    await tab.keyboard.press('Enter');
    await ann.is('connected');
    assert.equal(await focused(), 'Disconnect');
    for (const room of ['one', 'two']) await ann.join(room);
    await ann.root.getByRole('button', { name: 'Leave one' }).focus();
    await tab.keyboard.press('Enter');
    await ann.root.getByRole('button', { name: 'Leave one' }).waitFor({ state: 'detached' });
    assert.equal(await focused(), 'Leave two');
    // The room is the one that was asked for, whatever stands in the field by the time of the answer.
    await tab.evaluate(() => {
      const [field] = document.querySelectorAll('.panel input[name=room]');
      field.value = 'third';
      field.form.requestSubmit();
      field.value = 'fourth';
    });
    await ann.root.getByRole('button', { name: 'Leave third' }).waitFor();
    assert.equal(await ann.root.getByRole('button', { name: 'Leave fourth' }).count(), 0);

    await bob.join('two');
    await ann.root.getByLabel('Room', { exact: true }).fill('two');
    await tab.evaluate(() => {
      const [field] = document.querySelectorAll('.panel input[name=data]');
      for (let n = 0; n < 150; n += 1) {
        field.value = `line ${n}.`;
        field.form.requestSubmit();
      }
    });
    await bob.hears('line 149.');
    const log = bob.root.locator('.log');
    const ends = await log.evaluate((each) => each.scrollHeight - each.scrollTop - each.clientHeight);
    assert.ok(ends < 5, `it follows what comes, but for ${ends} px`);
    await log.evaluate((each) => (each.scrollTop = 100));
    await ann.publish('the last one');
    await bob.hears('the last one');
    assert.equal(await log.evaluate((each) => each.scrollTop), 100);

    await ann.send('bob', 'to be acknowledged');
    await bob.press('I am ready');
    const line = bob.line('to be acknowledged');
    await line.waitFor();
    await bob.press('Disconnect');
    await line.getByRole('button').focus();
    await tab.keyboard.press('Enter');
    await line.getByRole('button', { name: 'Not connected: it comes again' }).waitFor();
    await bob.connect();
    await bob.press('I am ready');
    await until('it has come again', async () => (await bob.line('to be acknowledged').count()) === 2);
    await bob.line('to be acknowledged').last().getByRole('button').focus();
    await tab.keyboard.press('Enter');
    await bob.line('to be acknowledged').last().getByRole('button', { name: 'Acknowledged' }).waitFor();
    assert.equal(await focused(), 'Acknowledged');
    await bob.root.getByRole('button', { name: 'Remove bob · phone' }).focus();
    await tab.keyboard.press('Enter');
    await bob.root.waitFor({ state: 'detached' });
    assert.notEqual(await tab.evaluate(() => document.activeElement.tagName), 'BODY');
    assert.deepEqual(tab.faults, []);
  });
});
