// The dialogs: the token, a weight, a backend, why a client was routed to its backends, and the keys.

import { ask, change, path, Refusal } from './api.js';
import { Chart } from './chart.js';
import { arrange, h, mark, say } from './dom.js';
import { bytes, clock, count, millis, percentiles, rate, span } from './format.js';
import { keyOf } from './store.js';
import { sign } from './states.js';

const CONNECTIONS = 100;

/** A dialog with a title. Escape and its button close it, and the focus goes back to where it was. */
function dialog(title, { wide = false } = {}, ...children) {
  const close = h('button', { type: 'button', class: 'icon close', 'aria-label': 'Close' }, '✕');
  const heading = h('h2', { id: `dialog-${(numbers += 1)}` }, title);
  const body = h('div', { class: 'body' }, ...children);
  const element = h('dialog', { class: wide ? 'wide' : null, 'aria-labelledby': heading.id }, h('div', { class: 'head' }, heading, close), body);
  const before = document.activeElement;
  close.addEventListener('click', () => element.close());
  element.addEventListener('click', (event) => {
    if (event.target === element) element.close(); // a click outside the dialog
  });
  element.addEventListener('close', () => {
    element.remove();
    if (before?.isConnected) before.focus();
  });
  document.body.append(element);
  element.showModal();
  return { element, body, heading };
}
let numbers = 0;

const isOpen = ({ element }) => element.open;

/** The characters that a header can carry (RFC 6750, 2.1, and a few more). */
const SENDABLE = /^[\x21-\x7e]+$/;

/** Asks for the token; `null` if none is given. */
export function askToken(message) {
  return new Promise((given) => {
    const field = h('input', { type: 'password', id: 'token', autocomplete: 'current-password', required: true, autofocus: true });
    const said = h('p', { class: 'said', role: 'alert' });
    const form = h('form', {}, h('p', {}, message), h('label', { for: 'token' }, 'Token'), field, said,
      h('p', { class: 'note' }, 'This page keeps it until the tab is closed, and sends it to this server only.'),
      h('div', { class: 'buttons' }, h('button', { type: 'submit', class: 'first' }, 'Use token')));
    const opened = dialog('A token is needed for changes', {}, form);
    let token = null;
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      const entered = field.value.trim();
      if (!SENDABLE.test(entered)) return say(said, 'A token consists of ASCII letters, digits and punctuation, without spaces.');
      token = entered;
      return opened.element.close();
    });
    opened.element.addEventListener('close', () => given(token));
    field.focus();
  });
}

/** The path of a backend, by its address: several backends may have the same name. */
const backendPath = (pool, backend) => path(['pools', pool, 'backends', backend.address]);

/**
 * Changes a backend and returns its new state. Asks before the last eligible backend of a pool is taken out; `null` if the
 * user decides against it.
 */
export async function changeBackend(pool, backend, wanted) {
  const to = backendPath(pool, backend);
  try {
    return await change('PATCH', to, { ...wanted, unless_last: true }, askToken);
  } catch (refusal) {
    if (refusal.code !== 'last_eligible') throw refusal;
    const sure = await confirm('Take out the last eligible backend?', `${refusal.plain}.`, ['Take it out', 'Leave it in']);
    return sure ? change('PATCH', to, wanted, askToken) : null;
  }
}

/** Asks a question; the answer is `true` for the first button only. */
function confirm(title, text, [yes, no]) {
  return new Promise((given) => {
    let sure = false;
    const first = h('button', { type: 'button', class: 'first grave', onclick: () => {
      sure = true;
      opened.element.close();
    } }, yes);
    const second = h('button', { type: 'button', onclick: () => opened.element.close() }, no);
    const opened = dialog(title, {}, h('p', {}, text), h('div', { class: 'buttons' }, second, first));
    opened.element.addEventListener('close', () => given(sure));
    second.focus();
  });
}

/** Asks for a weight, and calls `send({ weight })` with it, which returns whether it is set. */
export function weigh(backend, send) {
  const field = h('input', { type: 'number', id: 'weight', min: 0, max: 256, step: 1, required: true, value: backend.weight });
  const said = h('p', { class: 'said', role: 'alert' });
  const set = h('button', { type: 'submit', class: 'first' }, 'Set');
  const form = h('form', {}, h('label', { for: 'weight' }, 'Its share relative to the others, from 0 (no new connections) to 256'), field, said, h('div', { class: 'buttons' }, set));
  const opened = dialog(`Weight of ${backend.name}`, {}, form);
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    say(said, 'loading…');
    set.disabled = true;
    try {
      if (await send({ weight: Number(field.value) })) opened.element.close();
      else say(said, '');
    } catch (refusal) {
      say(said, refusal.message);
    }
    set.disabled = false;
  });
  field.select();
}

/** The sentences of a story as a list, below those of its summary, with which it begins. */
function story(told) {
  const summary = told.summary?.sentences ?? [];
  const sentences = (told.sentences ?? []).slice(summary.length);
  if (summary.length > 0) return h('div', {}, ...summary.map((sentence) => h('p', {}, sentence.text)), story({ sentences }));
  if (sentences.length === 0) return h('p', { class: 'note' }, 'Nothing recorded.');
  return h('ol', { class: 'story' }, ...sentences.map((sentence) => h('li', {}, sentence.at ? h('time', {}, clock(sentence.at)) : null, h('span', {}, sentence.text))));
}

/** Shows the reply to a request in an element, or the error. */
async function put(place, question, render) {
  arrange(place, [h('p', { class: 'note' }, 'loading…')]);
  let answer;
  try {
    const told = await question;
    answer = told === null ? h('p', { class: 'note' }, 'Not found.') : render(told);
  } catch (refusal) {
    answer = h('p', { class: 'said' }, refusal instanceof Refusal ? refusal.message : String(refusal));
  }
  arrange(place, [answer]);
}

/** Shows why a client was routed to its backends. */
export function whyHere(one) {
  const answer = h('div', { 'aria-live': 'polite' });
  dialog(one.backend === null ? `Why did ${one.client} get no backend?` : `Why did ${one.client} go to ${one.backend}?`, {}, answer);
  put(answer, ask(path(['why'], { client: one.client })), story);
}

/** Asks for a client, and shows why it was routed to its backends. */
export function whyClient() {
  const field = h('input', { type: 'text', id: 'client', required: true, placeholder: '192.0.2.7 or 192.0.2.7:50412', spellcheck: 'false', autocapitalize: 'off' });
  const answer = h('div', { 'aria-live': 'polite' });
  const form = h('form', {}, h('label', { for: 'client' }, 'The client’s address, with or without its port'),
    h('div', { class: 'row' }, field, h('button', { type: 'submit', class: 'first' }, 'Ask')));
  dialog('Why was a client routed to its backend?', {}, form, answer);
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const client = field.value.trim();
    put(answer, ask(path(['why'], { client })), story);
  });
  field.focus();
}

/** All details of a backend: its values, its story and its open connections. */
export function showBackend(pool, backend, store, watch) {
  const connections = new Chart('Connections per second', rate, { stacked: true, height: 100 });
  const traffic = new Chart('Bytes per second', bytes, { height: 100, unit: 1024 });
  const details = h('dl', { class: 'details' });
  const why = h('div', { 'aria-live': 'polite' });
  const open = h('div', {});
  const question = h('h3', {});
  const again = h('button', { type: 'button', onclick: () => list() }, 'Refresh');
  const opened = dialog(backend.name, { wide: true }, details, h('div', { class: 'charts two' }, connections.element, traffic.element),
    question, why, h('div', { class: 'head' }, h('h3', {}, 'Open connections'), again), open);
  const key = keyOf(pool, backend);
  const values = new Map();
  const tell = (name, text) => {
    if (!values.has(name)) {
      values.set(name, h('dd', {}));
      details.append(h('div', {}, h('dt', {}, name), values.get(name)));
    }
    say(values.get(name), text);
  };
  const update = () => {
    if (!isOpen(opened)) return false;
    const now = store.status.pools.find((one) => one.name === pool)?.backends.find((one) => keyOf(pool, one) === key);
    const [shown, view] = [store.shown('backend', key), store.view()];
    connections.draw([{ name: backend.name, series: shown.connections, hue: 0 }], view);
    traffic.draw([{ name: 'from clients', series: shown.bytes_in, hue: 0 }, { name: 'to clients', series: shown.bytes_out, hue: 1 }], view);
    say(question, now?.state === 'up' && now.weight > 0 ? 'Why is it eligible?' : 'Why isn’t it getting traffic?');
    if (!now) {
      tell('State', `${sign('gone')} gone: no longer in the pool`);
      return true;
    }
    tell('State', `${sign(now.state)} ${now.state} for ${span(store.now() - now.since)}, since ${clock(now.since)}`);
    mark(values.get('State'), 'data-state', now.state);
    tell('Why', now.cause);
    tell('Address', [now.address, ...now.also].join(', '));
    if (now.sources?.length) tell('Reported by', now.sources.join(', '));
    tell('Weight', `${now.weight}${now.ramp < 100 ? `, of which ${now.ramp} % so far (slow start)` : ''}${now.tier > 0 ? ', a backup' : ''}`);
    if (now.zone) tell('Zone', now.zone);
    tell('Connections', `${count(now.active)} open${now.limit ? ` of at most ${count(now.limit)}` : ''}, ${count(now.connections)} in all`);
    tell('Bytes', `${bytes(now.bytes_in)} from clients, ${bytes(now.bytes_out)} to clients`);
    if (now.connect) tell('Connect', percentiles(now.connect));
    if (now.first_byte) tell('First byte', percentiles(now.first_byte) + (now.times_slower ? `; its median is ${now.times_slower} times that of the other backends` : ''));
    tell('Failed connects', count(now.connect_failures));
    for (const check of now.checks) tell(`Check ${check.kind}`, `${check.passed ? '✓ passed' : `✕ failed: ${check.error ?? ''}`} at ${clock(check.at)}, took ${millis(check.took_ms)}`);
    return true;
  };
  put(why, ask(path(['why'], { pool, backend: backend.name })), story);
  const list = () => {
    put(open, ask(path(['connections'], { pool, backend: backend.name, limit: CONNECTIONS })), (told) => table(told, list));
    // The list above has the error, if the server does not answer.
    ask(path(['drain'], { pool, backend: backend.address })).then((told) => told && tell('Drain forecast', told.sentence), () => {});
  };
  list();
  update();
  watch(update);
}

/** The open connections as a table, each with a button that closes it. */
function table({ connections, total }, again) {
  if (connections.length === 0) return h('p', { class: 'note' }, 'None is open.');
  const heads = ['Client', 'For', 'From', 'To', 'First byte', ''].map((text, i) => h('th', { scope: 'col', class: i > 0 && i < 5 ? 'number' : null }, text));
  const number = (text) => h('td', { class: 'number' }, text);
  const rows = connections.map((one) => h('tr', {}, h('td', {}, one.client), number(span(one.age_ms / 1000)), number(bytes(one.bytes_in)), number(bytes(one.bytes_out)), number(millis(one.first_byte_ms)),
    h('td', {}, h('button', { type: 'button', 'aria-label': `Close the connection of ${one.client}`, onclick: () => end(one, again) }, 'Close'))));
  const more = (total ?? connections.length) > connections.length ? h('p', { class: 'note' }, `the oldest ${connections.length} of ${count(total)}`) : null;
  return h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Open connections' }, h('table', { class: 'plain' }, h('thead', {}, h('tr', {}, ...heads)), h('tbody', {}, ...rows)), more);
}

/** Closes a connection after a confirmation, as this cannot be undone. */
function end(one, again) {
  const said = h('p', { class: 'said', role: 'alert' });
  const yes = h('button', { type: 'button', class: 'first grave' }, 'Close it');
  const no = h('button', { type: 'button', onclick: () => opened.element.close() }, 'Keep it open');
  const opened = dialog('Close this connection?', {}, h('p', {}, `${one.client} is connected to ${one.backend ?? 'no backend'}. Both sides get a TCP reset.`), said, h('div', { class: 'buttons' }, no, yes));
  no.focus();
  yes.addEventListener('click', async () => {
    say(said, 'loading…');
    yes.disabled = true;
    try {
      await change('DELETE', path(['connections', String(one.conn)]), undefined, askToken);
      opened.element.close();
      again();
    } catch (refusal) {
      say(said, refusal.message);
      yes.disabled = false;
    }
  });
}

/** The keys of this page. */
export function showKeys(keys) {
  const rows = keys.map(([key, words]) => h('div', {}, h('dt', {}, h('kbd', {}, key)), h('dd', {}, words)));
  dialog('Keyboard', {}, h('dl', { class: 'keys' }, ...rows));
}

