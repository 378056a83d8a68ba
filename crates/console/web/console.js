// The page: a card for each node, and as many clients as one likes.

import { Card } from './card.js';
import { Panel } from './panel.js';

const { hostname, protocol } = window.location;
const at = (port, scheme = protocol) => `${scheme}//${hostname}:${port}`;
// The admin port never speaks TLS.
const nodes = JSON.parse(document.getElementById('nodes').textContent).map(({ name, client, admin }) => ({ name, client: at(client), admin: at(admin, 'http:') }));

const panels = document.getElementById('panels');
const added = document.getElementById('add');

/** Whoever went by keyboard goes on at the neighbour, or where clients are added. */
function gone({ root }) {
  const next = root.nextElementSibling ?? root.previousElementSibling;
  root.remove();
  (next?.querySelector('input, button') ?? added).focus();
}

function add({ user, device, node }) {
  const panel = new Panel({ nodes, user, device, node, again, gone });
  panels.append(panel.root);
  return panel;
}

function again(who) {
  const panel = add(who);
  panel.open();
  panel.root.scrollIntoView({ block: 'nearest' });
}

const theme = document.getElementById('theme');
theme.addEventListener('click', () => {
  const { documentElement: root } = document;
  const isDark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = isDark ? 'light' : 'dark';
});

let devices = 0;
added.addEventListener('click', () => {
  // A device of its own, or the next one would displace it.
  devices += 1;
  add({ user: 'eve', device: `phone ${devices}`, node: 0 }).root.querySelector('input').focus();
});

document.getElementById('cards').append(...nodes.map((node) => new Card(node).root));
add({ user: 'ann', device: 'laptop', node: 0 });
add({ user: 'bob', device: 'phone', node: nodes.length - 1 });
